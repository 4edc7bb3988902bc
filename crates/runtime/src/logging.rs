//! Logs on standard error: JSON for machines, text for people.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Text,
}

impl Format {
    /// `UNSTRUCTURED_LOGS` decides (`false` is JSON); without it, text on a terminal and JSON elsewhere.
    pub fn choose(unstructured_logs: Option<&str>, terminal: bool) -> Self {
        match unstructured_logs.map(str::to_ascii_lowercase).as_deref() {
            Some("true" | "1") => Self::Text,
            Some("false" | "0") => Self::Json,
            _ if terminal => Self::Text,
            _ => Self::Json,
        }
    }
}

/// Installs the process-wide log writer. `RUST_LOG` wins over `debug`, which `TOOLHIVE_DEBUG` also sets.
/// A second call does nothing.
pub fn init(debug: bool) {
    let environment = |name: &str| std::env::var(name).ok();
    let debug = debug || matches!(environment("TOOLHIVE_DEBUG").as_deref(), Some("true" | "1"));
    let level = if debug { "debug,hyper=info,h2=info,rustls=info" } else { "info" };
    let filter = environment("RUST_LOG")
        .and_then(|rules| EnvFilter::try_new(rules).ok())
        .unwrap_or_else(|| EnvFilter::new(level));
    let format = Format::choose(environment("UNSTRUCTURED_LOGS").as_deref(), std::io::stderr().is_terminal());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match format {
        Format::Json => builder.json().flatten_event(true).try_init(),
        Format::Text => builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    if installed.is_err() {
        tracing::debug!("a log writer was installed before");
    }
}

/// An error with the whole chain of its causes in one line, for the one place where it is handled.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn the_environment_decides_over_the_terminal() {
        for (variable, terminal, expected) in [
            (None, true, Format::Text),
            (None, false, Format::Json),
            (Some("false"), true, Format::Json),
            (Some("true"), false, Format::Text),
            (Some("maybe"), false, Format::Json),
        ] {
            assert_eq!(Format::choose(variable, terminal), expected, "{variable:?} {terminal}");
        }
    }
}
