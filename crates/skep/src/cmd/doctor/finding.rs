//! What was found, and how it is printed.

use std::io::Write as _;

use serde::Serialize;

use crate::cmd::report::Output;

/// Longest text of others that is shown.
const MOST_SHOWN: usize = 300;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// It could not be looked at from here.
    Skip,
    Warn,
    Fail,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skip => "skip",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    level: Level,
    /// What was looked at.
    check: &'static str,
    message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
}

/// All of them, in the order in which they were found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Findings {
    findings: Vec<Finding>,
}

impl Findings {
    /// All is well.
    pub(super) fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(Level::Ok, check, message, "");
    }

    /// It could not be looked at.
    pub(super) fn skip(
        &mut self,
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Level::Skip, check, message, remedy);
    }

    /// Something may be wrong.
    pub(super) fn warn(
        &mut self,
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Level::Warn, check, message, remedy);
    }

    /// Something is wrong.
    pub(super) fn fail(
        &mut self,
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Level::Fail, check, message, remedy);
    }

    /// Adds a line.
    pub(super) fn add(
        &mut self,
        level: Level,
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.findings.push(Finding { level, check, message: message.into(), remedy: remedy.into() });
    }

    /// True when there is a line about this.
    pub(super) fn has(&self, check: &str) -> bool {
        self.findings.iter().any(|finding| finding.check == check)
    }

    /// True when something is wrong.
    pub(super) fn failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Fail)
    }

    /// Writes them to standard output.
    ///
    /// # Errors
    /// When that can't be written to.
    pub(super) fn print(&self, output: Output) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match output {
            Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(self)?)?,
            Output::Text => {
                for finding in &self.findings {
                    writeln!(out, "{}", line(finding))?;
                }
            }
        }
        Ok(())
    }
}

fn line(finding: &Finding) -> String {
    let mut line = format!(
        "{:<4}  {:<10}  {}",
        finding.level.as_str(),
        finding.check,
        finding.message.trim_end_matches('.')
    );
    if !finding.remedy.is_empty() {
        line.push_str(". ");
        line.push_str(&finding.remedy);
    }
    line
}

/// A text that somebody else wrote, fit for a terminal: bounded, and with nothing that moves the cursor.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(MOST_SHOWN)
        .map(|letter| if letter.is_control() || is_direction(letter) { ' ' } else { letter })
        .collect();
    if text.chars().nth(MOST_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Letters that turn the direction of writing around, so that one reads something else than is there.
fn is_direction(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_whatever_is_in_it() {
        let mut findings = Findings::default();
        findings.ok("crds", "mcpservers.toolhive.stacklok.dev is installed");
        findings.fail("proxy", shown("a\nb\u{1b}[2J\u{202e}c"), "Look at it.");
        let lines: Vec<String> = findings.findings.iter().map(line).collect();
        assert_eq!(
            lines,
            [
                "ok    crds        mcpservers.toolhive.stacklok.dev is installed",
                "fail  proxy       a b [2J c. Look at it."
            ]
        );
        assert!(findings.failed());
    }

    #[test]
    fn what_others_wrote_is_cut() {
        assert_eq!(shown(&"ä".repeat(1000)).chars().count(), MOST_SHOWN + 1);
    }
}
