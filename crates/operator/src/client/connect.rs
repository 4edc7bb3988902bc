//! Which API server, and as whom.

use std::path::PathBuf;

use http::HeaderValue;
use http::header::USER_AGENT;
use kube::Client;
use kube::client::ClientBuilder;
use kube::config::{Config, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use thiserror::Error;

use super::Layers;
use crate::settings::FIELD_MANAGER;

/// Which API server to speak to.
///
/// A kubeconfig that is named wins, then the one that `KUBECONFIG` names, then the cluster that this pod is
/// in, then the one in the home folder: the order that Kubernetes controllers know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// Context in it; without one its current context.
    pub context: Option<String>,
}

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The kubeconfig named can't be used.
    #[error("can't use the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KubeconfigError,
    },
    /// Neither `KUBECONFIG` nor the home folder has one that can be used.
    #[error("there is no usable kubeconfig: name one with --kubeconfig or KUBECONFIG")]
    NoKubeconfig {
        /// Why.
        source: KubeconfigError,
    },
    /// This pod has no ServiceAccount token that can be used.
    #[error("can't use the ServiceAccount of this pod; is automountServiceAccountToken off?")]
    InCluster {
        /// Why.
        source: InClusterError,
    },
    /// The configuration makes no client.
    #[error("the connection to the API server can't be set up as configured")]
    Client {
        /// Why.
        source: Box<kube::Error>,
    },
}

impl Target {
    /// Reads the configuration.
    ///
    /// # Errors
    /// When there is none, or it can't be read.
    pub async fn config(&self) -> Result<Config, ConnectError> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        if let Some(path) = &self.kubeconfig {
            let refused = |source| ConnectError::Kubeconfig { path: path.clone(), source };
            let read = Kubeconfig::read_from(path).map_err(refused)?;
            return Config::from_custom_kubeconfig(read, &options).await.map_err(refused);
        }
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let in_cluster = set("KUBERNETES_SERVICE_HOST") && !set("KUBECONFIG") && self.context.is_none();
        if in_cluster {
            return Config::incluster().map_err(|source| ConnectError::InCluster { source });
        }
        Config::from_kubeconfig(&options).await.map_err(|source| ConnectError::NoKubeconfig { source })
    }
}

/// A client with layers around it.
///
/// # Errors
/// When the configuration (certificates, credentials) can't be used. Nothing is sent yet.
pub fn connect(mut config: Config, layers: &Layers) -> Result<Client, ConnectError> {
    // A retry inside would pass the gate once and be sent whenever it likes.
    config.default_retry = false;
    let agent = concat!("skep-operator/", env!("CARGO_PKG_VERSION"));
    debug_assert!(agent.starts_with(FIELD_MANAGER), "the API server derives the field manager from it");
    config.headers.push((USER_AGENT, HeaderValue::from_static(agent)));
    let builder = ClientBuilder::try_from(config)
        .map_err(|source| ConnectError::Client { source: Box::new(source) })?;
    Ok(builder.with_layer(layers).build())
}
