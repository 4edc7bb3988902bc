//! Mutation of pods: sidecars for those of MCPServers.

use serde_json::Value;
use skep_api::crd::{GROUP, Kind};

use super::mutate::{annotations, answer, decided, is_terminating};
use super::review::{Answer, Request};
use super::reviewer::{Reviewer, unknown};
use super::settings::InjectionPoint;
use super::world::{Facts, Freshness};
use crate::sidecars::{self, PodOwner};

/// Label with the name of the workload that a pod belongs to.
const NAME_LABEL: &str = "toolhive-name";

/// Injects sidecars into a pod of an MCPServer. Any other pod stays as it is.
pub(super) async fn pod(reviewer: &Reviewer, facts: &Facts, request: Request) -> Answer {
    let pod = &request.object;
    if reviewer.injection_point != InjectionPoint::Pod || is_terminating(pod) {
        return Answer::allowed();
    }
    let Some(name) = owner(pod) else { return Answer::allowed() };
    let namespace = request.namespace.as_str();
    let server = match facts.object(Kind::MCPServer, namespace, name, Freshness::Cached).await {
        Ok(Some(server)) => server,
        Ok(None) => return Answer::allowed(),
        Err(error) => return unknown(&error),
    };
    let policy = reviewer.policies.get();
    let annotations = annotations(&server);
    let around = match decided(facts, namespace, annotations.clone(), &policy).await {
        Ok((decision, around)) => {
            reviewer.metrics.decided(decision);
            around
        }
        Err(error) => return unknown(&error),
    };
    let owner = PodOwner { namespace: namespace.to_owned(), name: name.to_owned(), annotations };
    answer(sidecars::mutate_pod(pod, &owner, &policy, &around))
}

/// The MCPServer that a pod says it belongs to: through the StatefulSet of that name, or directly.
fn owner(pod: &Value) -> Option<&str> {
    let owners = pod.pointer("/metadata/ownerReferences")?.as_array()?;
    owners.iter().find_map(|owner| {
        let text = |field: &str| owner.get(field).and_then(Value::as_str);
        let name = text("name")?;
        let group = text("apiVersion")?.split_once('/')?.0;
        match (group, text("kind")?) {
            (GROUP, "MCPServer") => Some(name),
            ("apps", "StatefulSet") => {
                let controls = owner.get("controller") == Some(&Value::Bool(true));
                let label = pod.pointer("/metadata/labels")?.get(NAME_LABEL)?.as_str()?;
                (controls && label == name).then_some(name)
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_belongs_to_a_server_through_its_stateful_set_or_directly() {
        let set = |name: &str, controls: bool| json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name, "controller": controls});
        let server = json!({"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServer", "name": "s"});
        let foreign = json!({"apiVersion": "example.com/v1", "kind": "MCPServer", "name": "s"});
        for (owners, label, expected) in [
            (vec![set("s", true)], Some("s"), Some("s")),
            (vec![set("s", true)], Some("t"), None),
            (vec![set("s", true)], None, None),
            (vec![set("s", false)], Some("s"), None),
            (vec![set("x", true), server.clone()], Some("s"), Some("s")),
            (vec![server], None, Some("s")),
            (vec![foreign], Some("s"), None),
            (vec![], Some("s"), None),
        ] {
            let mut pod = json!({"metadata": {"ownerReferences": owners, "labels": {}}});
            if let Some(label) = label {
                pod["metadata"]["labels"]["toolhive-name"] = label.into();
            }
            assert_eq!(owner(&pod), expected, "{pod}");
        }
        assert_eq!(owner(&json!({"metadata": {}})), None);
    }
}
