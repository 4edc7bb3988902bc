//! What is wrong with an object, said once for `skep check`, the webhook and the status conditions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is planned, but somebody should look at it.
    Warning,
    /// The object is not planned.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One finding about one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Dotted path from the root of the object, for example `spec.remoteUrl` or `spec.secrets[1].key`.
    pub path: String,
    /// Machine-readable cause in the form of a Kubernetes condition reason (`RemoteURLInvalid`).
    pub reason: String,
    /// Whether the object is refused.
    pub severity: Severity,
    /// One or two sentences for a human: what is wrong and what to do. Never contains a secret.
    pub message: String,
}

impl Problem {
    /// A finding that stops the object from being planned.
    pub fn error(path: impl Into<String>, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into(), severity: Severity::Error, message: message.into() }
    }

    /// A finding that lets the object be planned.
    pub fn warning(path: impl Into<String>, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            reason: reason.into(),
            severity: Severity::Warning,
            message: message.into(),
        }
    }

    /// True when the object must not be planned.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}: {}", self.severity, self.path, self.reason, self.message)
    }
}
