//! The signals that tell a process that its files are new.

use std::fmt;

use rustix::process::Signal;

const SIGNALS: [(&str, Signal); 14] = [
    ("HUP", Signal::HUP),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("TERM", Signal::TERM),
    ("KILL", Signal::KILL),
    ("ALRM", Signal::ALARM),
    ("CONT", Signal::CONT),
    ("WINCH", Signal::WINCH),
    ("PIPE", Signal::PIPE),
    ("URG", Signal::URG),
    ("TTIN", Signal::TTIN),
    ("TTOU", Signal::TTOU),
];

/// A signal by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenewSignal {
    name: &'static str,
    signal: Signal,
}

impl RenewSignal {
    /// Reads a name, with or without `SIG`, in capitals or not.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let upper = text.trim().to_ascii_uppercase();
        let wanted = upper.strip_prefix("SIG").unwrap_or(&upper);
        SIGNALS.iter().find(|(name, _)| *name == wanted).map(|(name, signal)| Self { name, signal: *signal })
    }

    /// All that can be sent, for a message.
    pub(super) fn known() -> String {
        SIGNALS.map(|(name, _)| format!("SIG{name}")).join(", ")
    }

    /// The signal itself.
    pub(in crate::helper) fn signal(self) -> Signal {
        self.signal
    }
}

impl fmt::Display for RenewSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIG{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_found_by_its_name() {
        for text in ["SIGHUP", "HUP", "sighup", " SIGHUP "] {
            assert_eq!(RenewSignal::parse(text).unwrap().to_string(), "SIGHUP", "{text}");
        }
        for text in ["", "SIG", "SIGFOO", "1", "SIGSIGHUP"] {
            assert_eq!(RenewSignal::parse(text), None, "{text}");
        }
    }
}
