//! The webhook's config file: images, resources and volumes of what is injected.

mod file;

use std::collections::BTreeMap;
use std::fmt;

use skep_api::yaml::YamlError;

use super::names::{NODE_SOCKET_DIR, SOCKET_DRIVER};
use super::settings::Socket;

/// What the file says, with defaults where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SidecarConfig {
    pub images: Images,
    pub image_pull_policy: PullPolicy,
    pub resources: Resources,
    pub volumes: Volumes,
}

/// Images of the sidecars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// The helper of external sidecars.
    pub spiffe_helper: String,
    /// The registration of external sidecars.
    pub client_registration: String,
    /// Both built-in sidecars.
    pub builtin: String,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            spiffe_helper: "ghcr.io/spiffe/spiffe-helper:nightly".to_owned(),
            client_registration: "ghcr.io/kagenti/kagenti/client-registration:latest".to_owned(),
            builtin: "skep:latest".to_owned(),
        }
    }
}

/// `imagePullPolicy` of the sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    #[default]
    IfNotPresent,
    Always,
    Never,
}

impl PullPolicy {
    /// As it stands in a container.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Always => "Always",
            Self::Never => "Never",
        }
    }
}

/// Resources of the sidecars.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    pub spiffe_helper: Amounts,
    pub client_registration: Amounts,
}

/// Resources of one container, by their names (`cpu`, `memory`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amounts {
    pub requests: BTreeMap<String, String>,
    pub limits: BTreeMap<String, String>,
}

impl Default for Amounts {
    fn default() -> Self {
        let amounts = |cpu: &str, memory: &str| {
            BTreeMap::from([("cpu".to_owned(), cpu.to_owned()), ("memory".to_owned(), memory.to_owned())])
        };
        Self { requests: amounts("50m", "64Mi"), limits: amounts("100m", "128Mi") }
    }
}

/// Volumes that are injected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Volumes {
    pub socket: SocketVolume,
    /// Largest size of the volume with the client's credentials.
    pub shared_size: Option<String>,
    /// Largest size of the volume with SVIDs.
    pub svid_size: Option<String>,
}

/// Where the socket of the Workload API comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketVolume {
    /// What the file says; the flag `--spire-socket` counts where it says nothing.
    pub kind: Option<Socket>,
    /// Folder of the node.
    pub path: String,
    /// CSI driver.
    pub driver: String,
}

impl Default for SocketVolume {
    fn default() -> Self {
        Self { kind: None, path: NODE_SOCKET_DIR.to_owned(), driver: SOCKET_DRIVER.to_owned() }
    }
}

/// A config file that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is not YAML.
    #[error("the file is not YAML")]
    Yaml(#[from] YamlError),
    /// It says something that there isn't, or that can't be.
    #[error("{}", Findings(.0))]
    Content(Vec<Finding>),
}

/// One thing that is wrong with a config file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Counted from 1.
    pub line: usize,
    /// Where in the file: `images.spiffeHelper`. Empty for the whole.
    pub path: String,
    /// What is wrong, and what to do.
    pub message: String,
}

struct Findings<'a>(&'a [Finding]);

impl fmt::Display for Findings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Finding { line, path, message }) in self.0.iter().enumerate() {
            let space = if index > 0 { " " } else { "" };
            let colon = if path.is_empty() { "" } else { ": " };
            write!(f, "{space}line {line}: {path}{colon}{message}")?;
        }
        Ok(())
    }
}

impl SidecarConfig {
    /// Reads a config file.
    ///
    /// # Errors
    /// When it is not YAML, has a key that there isn't, or a value that Kubernetes would not take. All that is
    /// wrong is named, each with its line.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Self::parse_over(Self::default(), text)
    }

    /// The same, with `base` where the file says nothing.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_over(base: Self, text: &str) -> Result<Self, ConfigError> {
        let document = skep_api::yaml::single(text)?;
        file::read(base, &document).map_err(ConfigError::Content)
    }

    /// Where the socket comes from: what the file says, or else the flag.
    pub(super) fn socket(&self, flag: Socket) -> Socket {
        self.volumes.socket.kind.unwrap_or(flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_says_nothing() {
        for text in ["", "# nothing\n", "{}", "images:\n", "resources: {spiffeHelper: }\n"] {
            assert_eq!(SidecarConfig::parse(text), Ok(SidecarConfig::default()), "{text:?}");
        }
    }

    #[test]
    fn what_a_file_says_is_taken_and_the_rest_stays() {
        let mut base = SidecarConfig::default();
        base.images.builtin = "mine:1".to_owned();
        let read = SidecarConfig::parse_over(
            base.clone(),
            "images: {spiffeHelper: 'helper:1'}\nimagePullPolicy: Always\nresources:\n  spiffeHelper:\n    limits: {memory: 1Gi, cpu: 2}\n  clientRegistration: {limits: {}}\nvolumes:\n  socket: {type: csi, driver: csi.example.com}\n  svid: {sizeLimit: 1Mi}\n",
        )
        .unwrap();
        assert_eq!(read.images.spiffe_helper, "helper:1");
        assert_eq!(read.images.client_registration, base.images.client_registration);
        assert_eq!(read.images.builtin, "mine:1");
        assert_eq!(read.image_pull_policy, PullPolicy::Always);
        let amounts = &read.resources.spiffe_helper;
        assert_eq!(amounts.requests, Amounts::default().requests);
        assert_eq!(amounts.limits["cpu"], "2");
        assert_eq!(amounts.limits["memory"], "1Gi");
        assert!(read.resources.client_registration.limits.is_empty());
        assert_eq!(read.volumes.socket.kind, Some(Socket::Csi));
        assert_eq!(read.volumes.socket.driver, "csi.example.com");
        assert_eq!(read.volumes.svid_size.as_deref(), Some("1Mi"));
        assert_eq!(read.volumes.shared_size, None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_what_to_write() {
        for (text, expected) in [
            (
                "images:\n  spifeHelper: a\n",
                "line 2: images.spifeHelper: There is no such key. Known here: `spiffeHelper`, `clientRegistration`, `builtin`.",
            ),
            (
                "image: {}\n",
                "line 1: image: There is no such key. Known here: `images`, `imagePullPolicy`, `resources`, `volumes`.",
            ),
            ("images: x\n", "line 1: images: This is not a mapping."),
            ("\n- a\n", "line 2: This is not a mapping."),
            ("images:\n  builtin: [a]\n", "line 2: images.builtin: This is not a text."),
            ("images:\n  builtin: ' '\n", "line 2: images.builtin: This is not the name of an image."),
            ("images:\n  builtin: a b\n", "line 2: images.builtin: This is not the name of an image."),
            (
                "imagePullPolicy: always\n",
                "line 1: imagePullPolicy: Write `IfNotPresent`, `Always` or `Never`.",
            ),
            (
                "resources:\n  spiffeHelper:\n    limits:\n      cpu: 100 m\n",
                "line 4: resources.spiffeHelper.limits.cpu: This is not an amount. Write something like `100m` or `64Mi`.",
            ),
            (
                "resources:\n  spiffeHelper:\n    limits:\n      cpu: -1\n",
                "line 4: resources.spiffeHelper.limits.cpu: This is not an amount. Write something like `100m` or `64Mi`.",
            ),
            (
                "resources:\n  spiffeHelper:\n    limits:\n      cpu: 10m\n",
                "line 4: resources.spiffeHelper.limits.cpu: This is less than the request of 50m. Raise it, or lower `requests`.",
            ),
            (
                "resources:\n  spiffeHelper:\n    requests: {cpu: 200m}\n",
                "line 3: resources.spiffeHelper.requests.cpu: This is more than the limit of 100m. Lower it, or raise `limits`.",
            ),
            (
                "volumes:\n  socket:\n    type: CSI\n",
                "line 3: volumes.socket.type: Write `hostPath` or `csi`.",
            ),
            (
                "volumes:\n  socket:\n    type: csi\n    path: /run\n",
                "line 4: volumes.socket.path: This has a meaning with `type: hostPath` only. Remove it.",
            ),
            (
                "volumes:\n  socket:\n    type: hostPath\n    driver: d\n",
                "line 4: volumes.socket.driver: This has a meaning with `type: csi` only. Remove it.",
            ),
            (
                "volumes:\n  socket:\n    path: run/x\n",
                "line 3: volumes.socket.path: This is not an absolute path of a folder without `..`.",
            ),
            (
                "volumes:\n  socket:\n    path: /run/../etc\n",
                "line 3: volumes.socket.path: This is not an absolute path of a folder without `..`.",
            ),
            (
                "volumes:\n  socket:\n    path: /\n",
                "line 3: volumes.socket.path: This is not an absolute path of a folder without `..`.",
            ),
            (
                "volumes:\n  socket:\n    driver: a/b\n",
                "line 3: volumes.socket.driver: This is not the name of a CSI driver.",
            ),
            (
                "volumes:\n  svid:\n    sizeLimit: 0\n",
                "line 3: volumes.svid.sizeLimit: This is not a size. Write something like `1Mi`.",
            ),
            (
                "images:\n  a: 1\nvolumes:\n  b: 1\n",
                "line 2: images.a: There is no such key. Known here: `spiffeHelper`, `clientRegistration`, `builtin`. line 4: volumes.b: There is no such key. Known here: `socket`, `shared`, `svid`.",
            ),
        ] {
            assert_eq!(SidecarConfig::parse(text).unwrap_err().to_string(), expected, "{text}");
        }
        assert!(matches!(SidecarConfig::parse("a: [").unwrap_err(), ConfigError::Yaml(_)));
        assert!(matches!(SidecarConfig::parse("a: 1\n---\nb: 1\n").unwrap_err(), ConfigError::Yaml(_)));
    }
}
