//! What the API server can ask: one path each.

use skep_api::crd::Kind;

/// One thing that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Sidecars and defaults of an MCPServer.
    MutateServer,
    /// Sidecars of a pod.
    MutatePod,
    /// Whether an object is valid.
    Validate(Kind),
}

impl Hook {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::MutateServer, Self::MutatePod].into_iter().chain(Kind::ALL.into_iter().map(Self::Validate))
    }

    /// The paths at which it is asked: one for each version of the kind.
    pub fn paths(self) -> Vec<String> {
        let of_kind = |verb: &str, kind: Kind| {
            let name = kind.as_str().to_ascii_lowercase();
            kind.versions()
                .iter()
                .map(|version| format!("/{verb}-toolhive-stacklok-dev-{}-{name}", version.as_str()))
                .collect()
        };
        match self {
            Self::MutateServer => of_kind("mutate", Kind::MCPServer),
            Self::MutatePod => vec!["/mutate--v1-pod".to_owned()],
            Self::Validate(kind) => of_kind("validate", kind),
        }
    }

    /// What is asked at a path.
    pub fn of_path(path: &str) -> Option<Self> {
        if path == "/mutate--v1-pod" {
            return Some(Self::MutatePod);
        }
        let (verb, rest) = path.strip_prefix('/')?.split_once("-toolhive-stacklok-dev-")?;
        let (version, name) = rest.split_once('-')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str().to_ascii_lowercase() == name)?;
        kind.versions().iter().find(|known| known.as_str() == version)?;
        match verb {
            "mutate" if kind == Kind::MCPServer => Some(Self::MutateServer),
            "validate" => Some(Self::Validate(kind)),
            _ => None,
        }
    }

    /// For metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MutateServer => "mutate-mcpserver",
            Self::MutatePod => "mutate-pod",
            Self::Validate(kind) => match kind {
                Kind::MCPServer => "validate-mcpserver",
                Kind::MCPRemoteProxy => "validate-mcpremoteproxy",
                Kind::MCPExternalAuthConfig => "validate-mcpexternalauthconfig",
                Kind::MCPToolConfig => "validate-mcptoolconfig",
                Kind::MCPOIDCConfig => "validate-mcpoidcconfig",
                Kind::MCPAuthzConfig => "validate-mcpauthzconfig",
                Kind::MCPGroup => "validate-mcpgroup",
                Kind::MCPTelemetryConfig => "validate-mcptelemetryconfig",
                Kind::MCPWebhookConfig => "validate-mcpwebhookconfig",
                Kind::MCPServerEntry => "validate-mcpserverentry",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_leads_back_to_what_is_asked_there() {
        let mut paths = 0;
        for hook in Hook::all() {
            for path in hook.paths() {
                assert_eq!(Hook::of_path(&path), Some(hook), "{path}");
                paths += 1;
            }
        }
        assert!(paths > 15, "{paths}");
        assert_eq!(
            Hook::MutateServer.paths(),
            [
                "/mutate-toolhive-stacklok-dev-v1alpha1-mcpserver",
                "/mutate-toolhive-stacklok-dev-v1beta1-mcpserver"
            ]
        );
        for path in [
            "",
            "/",
            "/healthz",
            "/mutate-toolhive-stacklok-dev-v1alpha1-mcpgroup",
            "/validate-toolhive-stacklok-dev-v2-mcpserver",
            "/validate-toolhive-stacklok-dev-v1beta1-pod",
            "/validate--v1-pod",
            "/mutate--v1-pod/",
        ] {
            assert_eq!(Hook::of_path(path), None, "{path}");
        }
    }
}
