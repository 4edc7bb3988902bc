//! The one volume of the node that a pod may have without its namespace being trusted with all of them.

use serde_json::Value;

use super::names::SOCKET_VOLUME;

/// Tells the volume by which a pod reaches the SPIFFE Workload API of its node, in a pod (or pod template's
/// `spec`) where nobody can write to it. It gives a pod no more than its own identity, so it needs no permission
/// to mount folders of the node.
///
/// That is: its name is `spire-agent-socket`, it is this folder of the node and nothing else, and each mount of it
/// says `readOnly: true`. A mount that does not say which volume it is of may change one of these where templates
/// are merged, so it counts as one that can write.
#[derive(Debug, Clone)]
pub struct ReadOnlySocket {
    folder: String,
    /// Nothing in the pod can write to it.
    only_read: bool,
}

impl ReadOnlySocket {
    /// Looks at the mounts of a pod, once for all its volumes.
    pub fn of(pod: &Value, folder: &str) -> Self {
        let lists = ["containers", "initContainers", "ephemeralContainers"];
        let mut mounts = lists
            .iter()
            .flat_map(|list| pod.get(list).and_then(Value::as_array).into_iter().flatten())
            .flat_map(|container| {
                container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten()
            });
        let only_read = mounts.all(|mount| match mount.get("name").and_then(Value::as_str) {
            Some(SOCKET_VOLUME) => mount.get("readOnly") == Some(&Value::Bool(true)),
            Some(_) => true,
            None => false,
        });
        Self { folder: folder.to_owned(), only_read }
    }

    /// True for that volume.
    pub fn is(&self, volume: &Value) -> bool {
        let Some(map) = volume.as_object() else { return false };
        let host = volume.get("hostPath").and_then(Value::as_object);
        let is_folder = host.is_some_and(|host| {
            host.get("path").and_then(Value::as_str) == Some(&self.folder)
                && host.iter().all(|(key, value)| {
                    key == "path" || (key == "type" && matches!(value.as_str(), Some("" | "Directory")))
                })
        });
        let is_named = map.get("name").and_then(Value::as_str) == Some(SOCKET_VOLUME) && map.len() == 2;
        self.only_read && is_folder && is_named
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_socket_itself_and_only_to_read_needs_no_permission() {
        let ours = json!({"name": "spire-agent-socket", "hostPath": {"path": "/run/spire/agent-sockets"}});
        let mount = json!({"name": "spire-agent-socket", "mountPath": "/s", "readOnly": true});
        let pod =
            |list: &str, mounts: Value| json!({list: [{"name": "a"}, {"name": "b", "volumeMounts": mounts}]});
        let other = json!({"name": "other", "mountPath": "/o"});
        for (pod, volume, expected) in [
            (json!({}), ours.clone(), true),
            (pod("containers", json!([mount, other])), ours.clone(), true),
            (
                pod("containers", json!([{"name": "spire-agent-socket", "mountPath": "/s"}])),
                ours.clone(),
                false,
            ),
            (
                pod("initContainers", json!([{"name": "spire-agent-socket", "readOnly": false}])),
                ours.clone(),
                false,
            ),
            (
                pod("ephemeralContainers", json!([mount, {"mountPath": "/s", "readOnly": null}])),
                ours.clone(),
                false,
            ),
            (json!({}), json!({"name": "x", "hostPath": {"path": "/run/spire/agent-sockets"}}), false),
            (json!({}), json!({"name": "spire-agent-socket", "hostPath": {"path": "/"}}), false),
            (
                json!({}),
                json!({"name": "spire-agent-socket", "hostPath": {"path": "/run/spire/agent-sockets/.."}}),
                false,
            ),
            (
                json!({}),
                json!({"name": "spire-agent-socket", "hostPath": {"path": "/run/spire/agent-sockets", "type": "DirectoryOrCreate"}}),
                false,
            ),
            (
                json!({}),
                json!({"name": "spire-agent-socket", "hostPath": {"path": "/run/spire/agent-sockets"}, "$patch": "merge"}),
                false,
            ),
        ] {
            assert_eq!(
                ReadOnlySocket::of(&pod, "/run/spire/agent-sockets").is(&volume),
                expected,
                "{pod} {volume}"
            );
        }
    }
}
