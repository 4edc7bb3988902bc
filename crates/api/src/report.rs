//! What a proxy says of itself: the body of `/status` on its diagnostics port. The proxy writes it, the
//! operator reads it.
//!
//! It holds no secret, no token and no header value. Whoever reads it does not trust it: members that are
//! not known are passed over, a reason that is not known becomes `Unknown`, and the size of the body, of
//! lists and of texts is for the reader to bound. Times are RFC 3339 in UTC, and as little to be trusted.

use serde::{Deserialize, Serialize};

/// Path that the report is served at.
pub const PATH: &str = "/status";

/// The body of `/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyReport {
    /// Version of skep.
    pub version: String,
    /// The proxies of the process: one in a pod, any number in `skep up`.
    pub proxies: Vec<WorkloadReport>,
    /// Whether a change of a file is seen at once.
    pub files: FilesReport,
}

/// One proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadReport {
    /// Name of the workload.
    pub name: String,
    /// URL of the MCP server, without query and credentials.
    pub target: String,
    /// Why no call is let through; absent when calls are.
    pub suspended: Option<String>,
    /// Whether callers can be known; absent when nobody is asked.
    pub authentication: Option<AuthenticationReport>,
    /// Whether credentials for the MCP server can be made; absent when none are.
    pub credential: Option<CredentialReport>,
    /// Whether the MCP server answered the last call; absent before the first.
    pub backend_available: Option<bool>,
    /// What the last probe of a remote server found; absent before the first, and where nothing is probed.
    pub remote: Option<RemoteReport>,
    /// What became of changes of the configuration.
    pub config: ConfigReport,
    /// Which RunConfig is in force.
    pub run_config: RunConfigReport,
}

/// Whether the tokens of callers can be judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthenticationReport {
    /// The first issuer.
    pub issuer: Option<String>,
    /// The tokens of every issuer can be judged now.
    pub available: bool,
    /// The issuers, the first one first.
    pub issuers: Vec<IssuerReport>,
}

/// One issuer of callers' tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IssuerReport {
    /// Its identifier.
    pub issuer: String,
    /// Its tokens can be judged now.
    pub available: bool,
    /// Why, or why not.
    pub reason: IssuerReason,
    /// What went wrong, for a human; empty when nothing did.
    pub message: String,
    /// Since when the reason has been this one; absent when it was always.
    pub since: Option<String>,
}

/// What is known of an issuer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum IssuerReason {
    /// Its keys are at hand, or it answers questions about tokens.
    Available,
    /// Nothing was asked of it yet.
    NotTried,
    /// Keys are at hand, but it could not be asked for new ones. They are used for a day.
    KeysOutdated,
    /// Its discovery document can't be had, is somebody else's, or names no keys that may be fetched.
    DiscoveryFailed,
    /// Its keys can't be fetched.
    KeysUnreachable,
    /// What it publishes holds no key that can be used.
    KeysUnusable,
    /// It can't be asked about tokens.
    IntrospectionFailed,
    /// Something that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Whether credentials for the MCP server can be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CredentialReport {
    /// How they are made.
    #[serde(rename = "type")]
    pub kind: CredentialKind,
    /// Whether the last one could be made; absent when none was made of late. That a caller's own token was
    /// refused says nothing against it.
    pub ready: Option<bool>,
    /// Why, or why not.
    pub reason: CredentialReason,
    /// The error code that the endpoint refused the proxy with, such as `invalid_client`
    /// (RFC 6749 §5.2).
    pub code: Option<String>,
    /// Since when the reason has been this one; absent when it was always.
    pub since: Option<String>,
}

/// How credentials are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CredentialKind {
    /// At a token endpoint.
    TokenExchange,
    /// At the security token service of AWS.
    AwsSts,
    /// In a way that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What is known of how credentials are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CredentialReason {
    /// The last one could be made.
    Ready,
    /// None was asked for yet, or the last failure is more than five minutes old.
    NotTriedOfLate,
    /// The endpoint refuses the proxy itself, or what it asks for.
    Refused,
    /// The endpoint's answer is no credential.
    UnusableAnswer,
    /// The endpoint can't be reached, or has a fault.
    Unavailable,
    /// Something that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What the last probe of a remote MCP server found. Any HTTP answer means that it can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RemoteReport {
    /// It answered in HTTP.
    pub reachable: bool,
    /// When it was probed last.
    pub checked: String,
    /// Since when the reason has been this one.
    pub since: String,
    /// Why, or why not.
    pub reason: RemoteReason,
    /// A sentence for a human, the same as long as nothing changes.
    pub message: String,
    /// HTTP status of the answer.
    pub status: Option<u16>,
}

/// What a probe found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RemoteReason {
    /// An HTTP answer, whatever its status.
    Answered,
    /// The name does not resolve.
    NameNotResolved,
    /// The name resolves to addresses that may not be called.
    AddressRefused,
    /// No connection can be made.
    ConnectionFailed,
    /// The connection can't be secured: an unknown authority, a wrong name, an expired certificate.
    TlsFailed,
    /// There was no answer in time.
    TimedOut,
    /// The connection was closed without an HTTP answer, or what came is not HTTP.
    NoAnswer,
    /// Something that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What became of changes of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigReport {
    /// Changes that were taken.
    pub reloads: u64,
    /// Changes that were refused.
    pub refused: u64,
    /// Why the newest version is not in force; absent when it is.
    pub last_refusal: Option<String>,
}

/// Which RunConfig is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunConfigReport {
    /// SHA-256 of the file that the configuration in force was read from, in lower case hex; absent when it
    /// was read from none.
    pub checksum: Option<String>,
}

/// Whether a change of a file is seen at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FilesReport {
    /// The operating system tells of changes; else files are looked at every few seconds.
    pub watched: bool,
    /// Why it doesn't.
    pub reason: Option<String>,
}

impl IssuerReason {
    /// The reason as it is written, fit for a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "Available",
            Self::NotTried => "NotTried",
            Self::KeysOutdated => "KeysOutdated",
            Self::DiscoveryFailed => "DiscoveryFailed",
            Self::KeysUnreachable => "KeysUnreachable",
            Self::KeysUnusable => "KeysUnusable",
            Self::IntrospectionFailed => "IntrospectionFailed",
            Self::Unknown => "Unknown",
        }
    }
}

impl CredentialReason {
    /// The reason as it is written, fit for a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::NotTriedOfLate => "NotTriedOfLate",
            Self::Refused => "Refused",
            Self::UnusableAnswer => "UnusableAnswer",
            Self::Unavailable => "Unavailable",
            Self::Unknown => "Unknown",
        }
    }
}

impl RemoteReason {
    /// The reason as it is written, fit for a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "Answered",
            Self::NameNotResolved => "NameNotResolved",
            Self::AddressRefused => "AddressRefused",
            Self::ConnectionFailed => "ConnectionFailed",
            Self::TlsFailed => "TlsFailed",
            Self::TimedOut => "TimedOut",
            Self::NoAnswer => "NoAnswer",
            Self::Unknown => "Unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn what_a_newer_version_adds_is_passed_over() {
        let report: ProxyReport = from_value(json!({
            "version": "9", "new": {"a": []},
            "proxies": [{
                "name": "p", "more": 1,
                "authentication": {"issuers": [{"issuer": "i", "available": true, "reason": "Splendid"}]},
                "credential": {"type": "vault", "ready": null, "reason": "Soon"},
                "remote": {"reachable": false, "reason": "Tired", "checked": "2026-01-01T00:00:00Z"},
            }],
        }))
        .unwrap();
        let proxy = report.proxies.first().unwrap();
        assert_eq!(proxy.authentication.as_ref().unwrap().issuers[0].reason, IssuerReason::Unknown);
        let credential = proxy.credential.as_ref().unwrap();
        assert_eq!(
            (credential.kind, credential.reason),
            (CredentialKind::Unknown, CredentialReason::Unknown)
        );
        assert_eq!(proxy.remote.as_ref().unwrap().reason, RemoteReason::Unknown);
        assert_eq!((report.files.watched, &proxy.suspended), (false, &None));
    }

    #[test]
    fn what_an_older_version_wrote_can_be_read() {
        let report: ProxyReport = from_value(json!({
            "version": "0.1.0", "files": {"watched": true, "reason": null},
            "proxies": [{
                "name": "p", "target": "https://mcp.example/", "credential": null, "backendAvailable": true,
                "authentication": {"issuer": "i", "available": true, "issuers": [{"issuer": "i", "available": true}]},
                "config": {"reloads": 1, "refused": 0, "lastRefusal": null},
            }],
        }))
        .unwrap();
        assert_eq!(report.proxies[0].config.reloads, 1);
        assert_eq!(report.proxies[0].remote, None);
    }

    #[test]
    fn reasons_are_written_as_they_are_called() {
        for reason in [
            IssuerReason::Available,
            IssuerReason::NotTried,
            IssuerReason::KeysOutdated,
            IssuerReason::DiscoveryFailed,
            IssuerReason::KeysUnreachable,
            IssuerReason::KeysUnusable,
            IssuerReason::IntrospectionFailed,
            IssuerReason::Unknown,
        ] {
            assert_eq!(written(reason), reason.as_str());
        }
        for reason in [
            CredentialReason::Ready,
            CredentialReason::NotTriedOfLate,
            CredentialReason::Refused,
            CredentialReason::UnusableAnswer,
            CredentialReason::Unavailable,
            CredentialReason::Unknown,
        ] {
            assert_eq!(written(reason), reason.as_str());
        }
        for reason in [
            RemoteReason::Answered,
            RemoteReason::NameNotResolved,
            RemoteReason::AddressRefused,
            RemoteReason::ConnectionFailed,
            RemoteReason::TlsFailed,
            RemoteReason::TimedOut,
            RemoteReason::NoAnswer,
            RemoteReason::Unknown,
        ] {
            assert_eq!(written(reason), reason.as_str());
        }
    }

    fn written(reason: impl Serialize) -> String {
        serde_json::to_value(reason).unwrap().as_str().unwrap().to_owned()
    }
}
