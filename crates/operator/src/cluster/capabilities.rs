//! What this API server has.

use std::collections::BTreeMap;

use kube::Client;
use skep_api::crd::{GROUP, Kind};

use crate::apply::rebuild::leaves_objects_behind;

/// What discovery says, as far as it decides what the operator does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The version in which each of our kinds is read and written; kinds without a CRD are not in it.
    pub kinds: BTreeMap<Kind, String>,
    /// Version of PodDisruptionBudget: `v1`, or `v1beta1` before Kubernetes 1.21.
    pub disruption_budgets: Option<String>,
    /// ServiceMonitor is there.
    pub service_monitors: bool,
    /// This is OpenShift, which gives pods their own ids.
    pub openshift: bool,
    /// VirtualMCPServer is there, another operator's kind that can refer to our configs: its version.
    pub virtual_servers: Option<String>,
    /// An apply leaves the objects behind whose fields it takes away (before Kubernetes 1.22).
    pub leaves_objects_behind: bool,
    /// Init containers with `restartPolicy: Always` run beside the others (Kubernetes 1.29 and newer).
    pub native_sidecars: bool,
}

impl Capabilities {
    /// Asks the API server.
    ///
    /// # Errors
    /// When it can't be asked.
    pub async fn discover(client: &Client) -> Result<Self, kube::Error> {
        let version = client.apiserver_version().await?;
        let mut found = Self {
            leaves_objects_behind: leaves_objects_behind(&version.major, &version.minor),
            native_sidecars: has_native_sidecars(&version.major, &version.minor),
            ..Self::default()
        };
        let groups = client.list_api_groups().await?;
        for group in groups.groups {
            match group.name.as_str() {
                GROUP => {
                    for version in ["v1beta1", "v1alpha1"] {
                        if group.versions.iter().any(|served| served.version == version) {
                            found.ours(client, version).await?;
                        }
                    }
                }
                "policy" => found.budgets(client, &group.versions).await?,
                "monitoring.coreos.com" if group.versions.iter().any(|served| served.version == "v1") => {
                    // An error is no answer: who took it for a no would remove what is there.
                    let list = client.list_api_group_resources("monitoring.coreos.com/v1").await?;
                    found.service_monitors = list.resources.iter().any(|one| one.name == "servicemonitors");
                }
                "route.openshift.io" | "security.openshift.io" => found.openshift = true,
                _ => {}
            }
        }
        Ok(found)
    }

    /// The version in which a kind is read and written.
    pub fn version_of(&self, kind: Kind) -> Option<&str> {
        self.kinds.get(&kind).map(String::as_str)
    }

    /// Kinds whose CRD is missing.
    pub fn missing(&self) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|kind| !self.kinds.contains_key(kind)).collect()
    }

    /// True when all of this is in `now` too.
    fn is_in(&self, now: &Self) -> bool {
        let budgets = self.disruption_budgets.is_none() || self.disruption_budgets == now.disruption_budgets;
        let servers = self.virtual_servers.is_none() || self.virtual_servers == now.virtual_servers;
        self.kinds.iter().all(|(kind, version)| now.kinds.get(kind) == Some(version))
            && budgets
            && servers
            && self.service_monitors <= now.service_monitors
            && self.openshift <= now.openshift
    }

    /// Newer versions are asked for first, and the first that has a kind counts.
    async fn ours(&mut self, client: &Client, version: &str) -> Result<(), kube::Error> {
        let list = client.list_api_group_resources(&format!("{GROUP}/{version}")).await?;
        for resource in list.resources {
            if let Ok(kind) = resource.kind.parse::<Kind>() {
                self.kinds.entry(kind).or_insert_with(|| version.to_owned());
            } else if resource.kind == "VirtualMCPServer" {
                self.virtual_servers.get_or_insert_with(|| version.to_owned());
            }
        }
        Ok(())
    }

    async fn budgets(
        &mut self,
        client: &Client,
        served: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::GroupVersionForDiscovery],
    ) -> Result<(), kube::Error> {
        for version in ["v1", "v1beta1"] {
            if !served.iter().any(|one| one.version == version) {
                continue;
            }
            let list = client.list_api_group_resources(&format!("policy/{version}")).await?;
            if list.resources.iter().any(|one| one.name == "poddisruptionbudgets") {
                self.disruption_budgets = Some(version.to_owned());
                return Ok(());
            }
        }
        Ok(())
    }
}

/// True for a server that runs sidecars among init containers without anybody having to turn that on.
fn has_native_sidecars(major: &str, minor: &str) -> bool {
    // Some clouds write `29+`.
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    major == "1" && digits.parse::<u32>().is_ok_and(|minor| minor >= 29)
}

/// Decides when an API server has changed. What came counts at once; that something went only counts when it is
/// said twice in a row, for an API server that starts or loses a part of itself has less for a moment.
#[derive(Debug)]
pub struct Watcher {
    known: Capabilities,
    doubtful: Option<Capabilities>,
}

/// What an answer of the API server means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It has what it had.
    Same,
    /// Something seems to be gone; it has to be asked again.
    Doubtful,
    /// It has other things than before.
    Changed,
}

impl Watcher {
    /// `known` is what the API server had at first.
    pub fn new(known: Capabilities) -> Self {
        Self { known, doubtful: None }
    }

    /// Takes an answer; `None`: there was an error.
    pub fn take(&mut self, now: Option<Capabilities>) -> Answer {
        let doubtful = self.doubtful.take();
        match now {
            None => Answer::Same,
            Some(now) if now == self.known => Answer::Same,
            Some(now) if self.known.is_in(&now) || doubtful.as_ref() == Some(&now) => Answer::Changed,
            Some(now) => {
                self.doubtful = Some(now);
                Answer::Doubtful
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn an_error_is_no_answer() {
        let server = tower::service_fn(|request: Request<Body>| {
            let version = json!({"groupVersion": "monitoring.coreos.com/v1", "version": "v1"});
            let (code, body) = match request.uri().path() {
                "/apis" => {
                    (200, json!({"groups": [{"name": "monitoring.coreos.com", "versions": [version]}]}))
                }
                _ => (
                    503,
                    json!({"kind": "Status", "status": "Failure", "code": 503, "reason": "ServiceUnavailable", "message": "away"}),
                ),
            };
            let response = Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            async move { Ok::<_, Infallible>(response.unwrap()) }
        });
        let client = Client::new(server, "default");
        let error = Capabilities::discover(&client).await.unwrap_err();
        assert!(matches!(&error, kube::Error::Api(status) if status.code == 503), "{error}");
    }

    fn with(kinds: &[Kind], service_monitors: bool) -> Capabilities {
        let kinds = kinds.iter().map(|kind| (*kind, "v1beta1".to_owned())).collect();
        Capabilities { kinds, service_monitors, ..Capabilities::default() }
    }

    #[test]
    fn sidecars_of_kubernetes_itself_are_there_from_1_29_on() {
        for (major, minor, there) in
            [("1", "28", false), ("1", "29", true), ("1", "30+", true), ("1", "", false), ("0", "29", false)]
        {
            assert_eq!(has_native_sidecars(major, minor), there, "{major}.{minor}");
        }
    }

    #[test]
    fn what_is_gone_is_believed_when_it_is_said_twice() {
        let full = with(&[Kind::MCPServer, Kind::MCPGroup], true);
        let less = with(&[Kind::MCPServer, Kind::MCPGroup], false);
        let least = with(&[Kind::MCPServer], false);
        let mut watcher = Watcher::new(full.clone());
        for (now, answer) in [
            (Some(&less), Answer::Doubtful),
            (Some(&full), Answer::Same),
            (Some(&less), Answer::Doubtful),
            (None, Answer::Same),
            (Some(&less), Answer::Doubtful),
            (Some(&least), Answer::Doubtful),
            (Some(&least), Answer::Changed),
        ] {
            assert_eq!(watcher.take(now.cloned()), answer, "{now:?}");
        }
    }

    #[test]
    fn what_is_new_counts_at_once() {
        let mut watcher = Watcher::new(with(&[Kind::MCPServer], false));
        assert_eq!(watcher.take(Some(with(&[Kind::MCPServer], true))), Answer::Changed);
        // In another version it is something new for something that is gone.
        let mut newer = with(&[Kind::MCPServer], false);
        newer.kinds.insert(Kind::MCPServer, "v1".to_owned());
        assert_eq!(watcher.take(Some(newer)), Answer::Doubtful);
    }
}
