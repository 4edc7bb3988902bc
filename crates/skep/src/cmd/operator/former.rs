//! What ToolHive's operator is or was told and this one needs not: accepted, noted, without effect.

/// Flags of controller-runtime and its logger.
#[derive(Debug, clap::Args)]
pub(crate) struct FormerFlags {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    zap_devel: Option<String>,
    #[arg(long, hide = true)]
    zap_encoder: Option<String>,
    #[arg(long, hide = true)]
    zap_log_level: Option<String>,
    #[arg(long, hide = true)]
    zap_stacktrace_level: Option<String>,
    #[arg(long, hide = true)]
    zap_time_encoding: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_http2: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    metrics_secure: Option<String>,
    #[arg(long, hide = true)]
    metrics_cert_path: Option<String>,
}

/// Variables that ToolHive's chart sets.
const VARIABLES: [&str; 7] = [
    "ENABLE_EXPERIMENTAL_FEATURES",
    "TOOLHIVE_USE_CONFIGMAP",
    "VMCP_IMAGE",
    "TOOLHIVE_REGISTRY_API_IMAGE",
    "TOOLHIVE_SKIP_UPDATE_CHECK",
    "GOMEMLIMIT",
    "GOGC",
];

impl FormerFlags {
    /// Says what was given and has no effect.
    pub(crate) fn tell(&self) {
        let flags = self.given();
        if !flags.is_empty() {
            tracing::warn!(
                ?flags,
                "these flags have no effect here; RUST_LOG and UNSTRUCTURED_LOGS decide about logs"
            );
        }
        let variables: Vec<&str> =
            VARIABLES.into_iter().filter(|name| std::env::var_os(name).is_some()).collect();
        if !variables.is_empty() {
            tracing::info!(?variables, "these variables have no effect here");
        }
    }

    fn given(&self) -> Vec<&'static str> {
        [
            ("--zap-devel", &self.zap_devel),
            ("--zap-encoder", &self.zap_encoder),
            ("--zap-log-level", &self.zap_log_level),
            ("--zap-stacktrace-level", &self.zap_stacktrace_level),
            ("--zap-time-encoding", &self.zap_time_encoding),
            ("--enable-http2", &self.enable_http2),
            ("--metrics-secure", &self.metrics_secure),
            ("--metrics-cert-path", &self.metrics_cert_path),
        ]
        .into_iter()
        .filter_map(|(flag, value)| value.as_ref().map(|_| flag))
        .collect()
    }
}
