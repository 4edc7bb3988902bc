//! What this API server has.

use std::collections::BTreeMap;

use kube::Client;
use skep_api::crd::{GROUP, Kind};

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
}

impl Capabilities {
    /// Asks the API server.
    ///
    /// # Errors
    /// When it can't be asked.
    pub async fn discover(client: &Client) -> Result<Self, kube::Error> {
        let mut found = Self::default();
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
                "monitoring.coreos.com" => {
                    let list = client.list_api_group_resources("monitoring.coreos.com/v1").await;
                    found.service_monitors =
                        list.is_ok_and(|list| list.resources.iter().any(|one| one.name == "servicemonitors"));
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
