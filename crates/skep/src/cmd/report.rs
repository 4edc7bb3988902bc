//! What offline commands have found, for people and for programs.

use std::io::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use skep_api::problem::Severity;

use crate::manifest::{Manifests, PlannedObject};

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// One line a finding, for people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// Exit code of a command that has found errors.
pub(crate) const FOUND_ERRORS: u8 = 3;

/// One finding, with its place.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    file: String,
    line: usize,
    /// `error`, `warning` or `note`.
    severity: &'static str,
    reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    path: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<ObjectName>,
}

/// The object that a finding is about.
#[derive(Debug, Serialize)]
struct ObjectName {
    kind: &'static str,
    namespace: String,
    name: String,
}

/// All findings of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    findings: Vec<Finding>,
    objects: usize,
    errors: usize,
    warnings: usize,
}

impl Report {
    /// Collects what was found while reading and while planning.
    pub(crate) fn new(manifests: &Manifests, planned: &[PlannedObject]) -> Self {
        let mut findings: Vec<Finding> = manifests
            .remarks
            .iter()
            .map(|remark| Finding {
                file: remark.file.display().to_string(),
                line: remark.line,
                severity: severity(remark.severity),
                reason: remark.reason.to_owned(),
                path: String::new(),
                message: remark.message.clone(),
                object: None,
            })
            .collect();
        for object in planned {
            let of_object = findings.len();
            findings.extend(object.planned.problems.iter().map(|problem| Finding {
                file: object.file.display().to_string(),
                line: object.line_of(&problem.path),
                severity: severity(Some(problem.severity)),
                reason: problem.reason.clone(),
                path: problem.path.clone(),
                message: problem.message.clone(),
                object: Some(ObjectName {
                    kind: object.kind.as_str(),
                    namespace: object.namespace.clone(),
                    name: object.name.clone(),
                }),
            }));
            // As one reads the file, whatever the order in which the planner looked.
            if let Some(own) = findings.get_mut(of_object..) {
                own.sort_by_key(|finding| finding.line);
            }
        }
        let count = |word: &str| findings.iter().filter(|finding| finding.severity == word).count();
        let (errors, warnings) = (count("error"), count("warning"));
        Self { findings, objects: planned.len(), errors, warnings }
    }

    /// One line a finding: `file:line: severity: Reason: path: sentence`.
    pub(crate) fn lines(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for finding in &self.findings {
            let Finding { file, line, severity, reason, path, message, .. } = finding;
            let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
            let _ = writeln!(text, "{file}:{line}: {severity}: {reason}: {path}{message}");
        }
        text
    }

    /// `3 objects: 1 error, 2 warnings`.
    pub(crate) fn summary(&self) -> String {
        let count =
            |number: usize, word: &str| format!("{number} {word}{}", if number == 1 { "" } else { "s" });
        format!(
            "{}: {}, {}",
            count(self.objects, "object"),
            count(self.errors, "error"),
            count(self.warnings, "warning")
        )
    }

    /// True when something is an error.
    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// 3 when there are errors, else 0.
    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.errors > 0 { ExitCode::from(FOUND_ERRORS) } else { ExitCode::SUCCESS }
    }
}

fn severity(severity: Option<Severity>) -> &'static str {
    match severity {
        Some(Severity::Error) => "error",
        Some(Severity::Warning) => "warning",
        None => "note",
    }
}

/// Writes to standard output. A reader that has gone away (`| head`) is no failure.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    written(std::io::stdout().lock().write_all(text.as_bytes()))
}

/// Writes to standard error.
pub(crate) fn complain(text: &str) -> anyhow::Result<()> {
    written(std::io::stderr().lock().write_all(text.as_bytes()))
}

fn written(result: std::io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
