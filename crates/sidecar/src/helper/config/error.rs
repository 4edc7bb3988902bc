//! What is wrong with a configuration file, and on which line.

use std::fmt;

/// A configuration that can't be used. Shows as `helper.conf:3: what is wrong`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file, as the caller names it.
    pub file: String,
    /// The line, counted from 1, where one line is to blame.
    pub line: Option<usize>,
    pub problem: ConfigProblem,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.problem),
            None => write!(f, "{}: {}", self.file, self.problem),
        }
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigProblem {
    #[error("{message}")]
    Syntax { message: String },
    #[error("`{key}` is no key {place}{}", remark(.advice))]
    UnknownKey { key: String, place: &'static str, advice: Option<Advice> },
    #[error("`{key}` was given on line {first} already")]
    Duplicate { key: String, first: usize },
    #[error("`{key}` has to be {wanted}, not {found}")]
    Type { key: String, wanted: &'static str, found: &'static str },
    #[error("`{key}` is missing in this entry of jwt_svids")]
    JwtEntry { key: &'static str },
    #[error(
        "svid_file_name, svid_key_file_name and svid_bundle_file_name belong together; missing: {missing}"
    )]
    X509Incomplete { missing: String },
    #[error(
        "nothing is to be written: give svid_file_name, svid_key_file_name and svid_bundle_file_name, or \
         jwt_svids, or jwt_bundle_file_name"
    )]
    NoOutput,
    #[error("{path} is to be written twice")]
    SameFile { path: String },
    #[error("pid_file_name needs renew_signal, the signal that is sent to that process")]
    NoSignal,
    #[error("`{text}` is no signal that can be sent; write one of {known}")]
    Signal { text: String, known: String },
    #[error("`{key}` can't be {value}: {problem}")]
    Value { key: String, value: String, problem: String },
}

/// What was probably meant by an unknown key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Another key, spelled nearly so.
    Near(&'static str),
    /// This key, in another place.
    Elsewhere(&'static str),
}

fn remark(advice: &Option<Advice>) -> String {
    match advice {
        Some(Advice::Near(near)) => format!(" (did you mean `{near}`?)"),
        Some(Advice::Elsewhere(place)) => format!("; it is one {place}"),
        None => String::new(),
    }
}
