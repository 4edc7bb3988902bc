//! Asking pods for their report. A pod's address is not to be trusted more than its answer: only an address
//! is called, never a name, and none where something else than a pod would answer.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use skep_api::address::{Egress, Reach};
use skep_api::report::{self, ProxyReport, WorkloadReport};
use skep_auth::client::{ClientConfig, FetchError, GuardedClient};
use url::Url;

use super::report::{BadReport, read};

/// Port on which a proxy serves its report.
pub const STATUS_PORT: u16 = 9464;

/// What one pod said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodReport {
    /// Name of the pod.
    pub pod: String,
    /// Its report, or why there is none.
    pub said: Result<WorkloadReport, ReportErrorKind>,
}

impl PodReport {
    /// What came of asking a pod.
    pub fn new(pod: impl Into<String>, answer: Result<ProxyReport, ReportError>) -> Self {
        let said = match answer {
            Ok(report) => report.proxies.into_iter().next().ok_or(ReportErrorKind::Unreadable),
            Err(error) => Err(error.kind()),
        };
        Self { pod: pod.into(), said }
    }

    /// True when the pod gave a report.
    pub fn is_report(&self) -> bool {
        self.said.is_ok()
    }

    /// True when a status would say something else after this report. That the same was found once more, or
    /// how often something happened, makes none.
    pub fn differs(&self, other: &Self) -> bool {
        let telling = |report: &Self| {
            let mut said = report.said.clone().map_err(|error| error.to_string());
            if let Ok(proxy) = &mut said {
                proxy.config.reloads = 0;
                proxy.config.refused = 0;
                if let Some(remote) = &mut proxy.remote {
                    remote.checked.clear();
                    remote.since.clear();
                }
                if let Some(credential) = &mut proxy.credential {
                    credential.since = None;
                }
                for issuer in proxy.authentication.iter_mut().flat_map(|callers| &mut callers.issuers) {
                    issuer.since = None;
                }
            }
            said
        };
        self.pod != other.pod || telling(self) != telling(other)
    }
}

/// How often pods are asked.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Time between two reports of one pod.
    pub interval: Duration,
    /// Time after which one is asked again that gave no report; it doubles with each time.
    pub after_failure: Duration,
    /// Longest such time.
    pub longest: Duration,
    /// Time between two looks at which pods there are.
    pub tick: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(60),
            after_failure: Duration::from_secs(10),
            longest: Duration::from_secs(300),
            tick: Duration::from_secs(2),
        }
    }
}

/// How pods are asked.
#[derive(Debug, Clone)]
pub struct ReporterSettings {
    /// Port of `/status`.
    pub port: u16,
    /// What may be called at all. Loopback only in tests; the API server's address belongs to what is denied.
    pub egress: Egress,
    /// Time for one answer.
    pub timeout: Duration,
    /// Bytes of one answer.
    pub max_bytes: usize,
    /// How often.
    pub pace: Pace,
}

impl Default for ReporterSettings {
    fn default() -> Self {
        Self {
            port: STATUS_PORT,
            egress: Egress::default(),
            timeout: Duration::from_secs(3),
            max_bytes: 64 * 1024,
            pace: Pace::default(),
        }
    }
}

/// Asks pods for their report.
#[derive(Debug, Clone)]
pub struct Reporter {
    client: GuardedClient,
    port: u16,
    pace: Pace,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// What should be an address is none.
    #[error("`{}` is no IP address", .text.escape_debug())]
    NotAnAddress { text: String },
    /// The pod can't be asked, or its answer can't be had.
    #[error("the pod at {address} gives no report")]
    Fetch {
        address: SocketAddr,
        #[source]
        source: FetchError,
    },
    /// The answer is no report.
    #[error("what the pod at {address} reports cannot be used")]
    Bad {
        address: SocketAddr,
        #[source]
        source: BadReport,
    },
}

/// What went wrong, as far as a status says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReportErrorKind {
    /// The address is none, or may not be called.
    Address,
    /// No connection can be made.
    Unreachable,
    /// There was no whole answer in time.
    TimedOut,
    /// The answer has another status than 200.
    Status(u16),
    /// The answer is too large.
    TooLarge,
    /// The answer is no report.
    Unreadable,
}

impl std::fmt::Display for ReportErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address => f.write_str("its address may not be called"),
            // A pod behind a broken network is now the one and now the other.
            Self::Unreachable | Self::TimedOut => f.write_str("it cannot be reached"),
            Self::Status(status) => write!(f, "it answers {status}"),
            Self::TooLarge => f.write_str("its report is too large"),
            Self::Unreadable => f.write_str("what it says is no report"),
        }
    }
}

impl ReportError {
    /// What went wrong, the same for the same cause.
    pub fn kind(&self) -> ReportErrorKind {
        match self {
            Self::NotAnAddress { .. } => ReportErrorKind::Address,
            Self::Bad { .. } => ReportErrorKind::Unreadable,
            Self::Fetch { source, .. } => match source {
                FetchError::Address { .. } | FetchError::Scheme { .. } | FetchError::Credentials { .. } => {
                    ReportErrorKind::Address
                }
                FetchError::Status { status, .. } => ReportErrorKind::Status(*status),
                FetchError::TooLarge { .. } => ReportErrorKind::TooLarge,
                FetchError::Unreachable { source, .. } if source.is_timeout() => ReportErrorKind::TimedOut,
                _ => ReportErrorKind::Unreachable,
            },
        }
    }
}

impl Reporter {
    /// Makes a reporter.
    ///
    /// # Errors
    /// When the HTTP client can't be set up.
    pub fn new(settings: ReporterSettings) -> Result<Self, FetchError> {
        let mut config = ClientConfig::new(settings.egress);
        config.reach = Reach { http: true, private: true };
        config.timeout = settings.timeout;
        config.max_bytes = settings.max_bytes;
        // Each pod is asked about once a minute, and there may be more pods than a process may have files.
        config.idle_connections = 0;
        Ok(Self { client: GuardedClient::new(config)?, port: settings.port, pace: settings.pace })
    }

    /// How often pods are asked.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// Asks the pod at an address, as `status.podIP` has it. Redirects are not followed. The report is
    /// bounded and fit to be shown, but true only as far as the pod is.
    ///
    /// # Errors
    /// When the address is none or may not be called, and when there is no report to be had there.
    pub async fn ask(&self, pod_ip: &str) -> Result<ProxyReport, ReportError> {
        let not_an_address = || ReportError::NotAnAddress { text: pod_ip.chars().take(64).collect() };
        let ip: IpAddr = pod_ip.parse().map_err(|_| not_an_address())?;
        let address = SocketAddr::new(ip, self.port);
        let url = Url::parse(&format!("http://{address}{}", report::PATH)).map_err(|_| not_an_address())?;
        let body = self
            .client
            .get_json(&url, None)
            .await
            .map_err(|source| ReportError::Fetch { address, source })?;
        read(&body).map_err(|source| ReportError::Bad { address, source })
    }
}
