//! One proxy in this process: its listener, and the changes it lives through.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use skep_api::address::Egress;
use skep_api::secret::Secret;
use skep_operator::plan::Workload;
use skep_proxy::config::{ProxyConfig, Surroundings};
use skep_proxy::service::{Proxy, Shared};
use skep_runtime::drain::{Drain, DrainTimes};
use skep_runtime::http::{Load, serve};
use skep_runtime::logging::chain;
use tokio::task::JoinHandle;
use url::Url;

use super::mounts::Mounts;
use super::ports::{self, Bound};
use super::printed::say;
use crate::manifest::Manifests;

/// A proxy as its manifest wants it.
#[derive(Debug)]
pub(crate) struct Wanted {
    mounts: Mounts,
    /// Port of the manifest.
    port: u16,
}

impl Wanted {
    /// What a plan wants, with its files and secrets from the manifests.
    ///
    /// # Errors
    /// When a Secret or ConfigMap lacks a key.
    pub(crate) fn new(workload: &Workload, manifests: &Manifests, namespace: &str) -> anyhow::Result<Self> {
        let mounts = Mounts::new(workload, manifests, namespace)?;
        Ok(Self { port: mounts.run_config.port, mounts })
    }

    /// The proxy's own config once its port is known. A resource URL on loopback follows the port, so that
    /// clients who compare it with the URL they use find them equal.
    fn config(&self, port: u16) -> anyhow::Result<ProxyConfig> {
        let mut run = self.mounts.run_config.clone();
        "127.0.0.1".clone_into(&mut run.host);
        run.port = port;
        let resource = |text: &str| {
            moved(text, self.port, port).unwrap_or_else(|| format!("http://127.0.0.1:{port}/mcp"))
        };
        if let Some(oidc) = &mut run.oidc_config {
            oidc.resource_url = resource(&oidc.resource_url);
        }
        for entry in &mut run.middleware_configs {
            if let Some(oidc) = entry.parameters.get_mut("oidc_config").and_then(|oidc| oidc.as_object_mut())
            {
                let text = oidc.get("ResourceURL").and_then(|url| url.as_str()).unwrap_or_default();
                let new = resource(text);
                oidc.insert("ResourceURL".to_owned(), new.into());
            }
        }
        let variable = |name: &str| -> Option<Secret> { self.mounts.variables.get(name).cloned() };
        let egress = Egress { loopback: true, deny: Vec::new() };
        Ok(ProxyConfig::new(&run, &Surroundings { variable: &variable, egress })?)
    }
}

/// The URL with the new port, when it is one of this machine; as it is, when it is another's; nothing,
/// when there is none.
fn moved(text: &str, from: u16, to: u16) -> Option<String> {
    let mut url = Url::parse(text).ok()?;
    let here = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    if here && url.port_or_known_default() == Some(from) && from != to {
        url.set_port(Some(to)).ok()?;
        return Some(url.to_string());
    }
    Some(text.to_owned())
}

/// A proxy that runs.
pub(crate) struct Instance {
    proxy: Arc<Proxy>,
    wanted: Wanted,
    port: u16,
    url: String,
    /// The newest version is not the one in force.
    refused: bool,
    drain: Drain,
    load: Load,
    serving: JoinHandle<()>,
}

impl Instance {
    /// Starts a proxy on the manifest's port, or on a free one, which is said. `listener` is one that was
    /// opened for it before.
    ///
    /// # Errors
    /// When the config can't be put to work.
    pub(crate) async fn start(
        shared: &Shared,
        wanted: Wanted,
        listener: Option<Bound>,
    ) -> anyhow::Result<Self> {
        let bound = match listener {
            Some(bound) => bound,
            None => ports::bind(wanted.port).context("no port can be had")?,
        };
        let config = wanted.config(bound.port)?;
        let name = config.name.clone();
        if let Some(taken) = bound.instead_of {
            say(&format!("port {taken} is taken; {name} is on port {} instead", bound.port));
        }
        let url = url(&config, bound.port);
        let drain = Drain::new();
        let shared = Shared { drain: drain.watch(), ..shared.clone() };
        let proxy = Proxy::new(config, bound.port, shared)?;
        let load = Load::default();
        let serving = tokio::spawn(serve(
            bound.listener,
            Arc::clone(&proxy),
            proxy.http_limits(),
            drain.watch(),
            load.clone(),
        ));
        Ok(Self { proxy, wanted, port: bound.port, url, refused: false, drain, load, serving })
    }

    /// The proxy itself.
    pub(crate) fn proxy(&self) -> Arc<Proxy> {
        Arc::clone(&self.proxy)
    }

    /// Where clients connect.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The files of this machine that it reads.
    pub(crate) fn outside(&self) -> impl Iterator<Item = PathBuf> {
        self.wanted.mounts.outside()
    }

    /// True when the manifest's port has not changed.
    pub(crate) fn has_same_port(&self, wanted: &Wanted) -> bool {
        self.wanted.port == wanted.port
    }

    /// Takes another config on the same listener; `false` when it is the same.
    ///
    /// # Errors
    /// When it can't be put to work; the old one stays.
    pub(crate) fn change(&mut self, wanted: Wanted) -> anyhow::Result<bool> {
        // After a refusal the same is put to work again, so that nobody is told of the refusal any more.
        if !self.refused && self.wanted.mounts.same(&wanted.mounts) {
            return Ok(false);
        }
        let config = wanted.config(self.port).inspect_err(|error| self.refuse(&chain(error.as_ref())))?;
        let url = url(&config, self.port);
        // The proxy notes its own refusals.
        self.proxy.reload(config).inspect_err(|_| self.refused = true)?;
        self.url = url;
        self.refused = false;
        self.wanted = wanted;
        Ok(true)
    }

    /// Notes why a new version did not come into force.
    pub(crate) fn refuse(&mut self, reason: &str) {
        self.refused = true;
        self.proxy.refused(reason);
    }

    /// Finishes what runs and stops.
    pub(crate) async fn stop(self, times: DrainTimes) {
        self.drain.run(times, self.load.idle()).await;
        let _ = self.serving.await;
    }
}

fn url(config: &ProxyConfig, port: u16) -> String {
    use skep_proxy::config::AuthSettings;
    let resource = match &config.auth {
        AuthSettings::Token(token) => token.resource_url.as_deref().and_then(|text| Url::parse(text).ok()),
        AuthSettings::Anonymous => None,
    };
    let path = resource.map_or_else(|| "/mcp".to_owned(), |url| url.path().to_owned());
    format!("http://127.0.0.1:{port}{path}")
}

#[cfg(test)]
mod tests {
    use super::moved;

    #[test]
    fn a_resource_url_of_this_machine_follows_the_port() {
        for (text, expected) in [
            ("http://127.0.0.1:7502/mcp", Some("http://127.0.0.1:9/mcp")),
            ("http://localhost:7502/", Some("http://localhost:9/")),
            ("http://127.0.0.1:8000/mcp", Some("http://127.0.0.1:8000/mcp")),
            ("https://mcp.example/x", Some("https://mcp.example/x")),
            ("", None),
        ] {
            assert_eq!(moved(text, 7502, 9).as_deref(), expected, "{text}");
        }
    }
}
