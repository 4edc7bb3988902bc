//! Reading a proxy's report. Whoever runs code in the pod wrote it, so nothing in it is taken as it comes:
//! lists and texts are bounded, and what is no time, code or checksum is dropped.

use jiff::Timestamp;
use skep_api::report::{ProxyReport, WorkloadReport};

/// Issuers that are looked at.
const MAX_ISSUERS: usize = 32;
/// Characters of a sentence.
const MAX_SENTENCE: usize = 300;
/// Characters of a name or URL.
const MAX_NAME: usize = 200;

/// Why the body of `/status` is no report.
#[derive(Debug, thiserror::Error)]
pub enum BadReport {
    /// It is not JSON, or a member has the wrong type.
    #[error("the answer is no report")]
    Unreadable(#[source] serde_json::Error),
    /// It says nothing about a proxy.
    #[error("the report names no proxy")]
    NoProxy,
}

/// Reads the body of `/status`. Everything in the result is bounded and fit to be shown.
///
/// # Errors
/// When it is no report.
pub fn read(body: &[u8]) -> Result<ProxyReport, BadReport> {
    let mut report: ProxyReport = serde_json::from_slice(body).map_err(BadReport::Unreadable)?;
    // A pod has one proxy.
    report.proxies.truncate(1);
    report.version = shown(&report.version, MAX_NAME);
    report.files.reason = report.files.reason.map(|reason| shown(&reason, MAX_SENTENCE));
    report.proxies.iter_mut().for_each(clean);
    if report.proxies.is_empty() { Err(BadReport::NoProxy) } else { Ok(report) }
}

fn clean(proxy: &mut WorkloadReport) {
    proxy.name = shown(&proxy.name, MAX_NAME);
    proxy.target = shown(&proxy.target, MAX_NAME);
    proxy.suspended = sentence(proxy.suspended.take());
    if let Some(authentication) = &mut proxy.authentication {
        authentication.issuer = authentication.issuer.take().map(|issuer| shown(&issuer, MAX_NAME));
        authentication.issuers.truncate(MAX_ISSUERS);
        for issuer in &mut authentication.issuers {
            issuer.issuer = shown(&issuer.issuer, MAX_NAME);
            issuer.message = shown(&issuer.message, MAX_SENTENCE);
            issuer.since = issuer.since.take().and_then(|since| time(&since));
        }
    }
    if let Some(credential) = &mut proxy.credential {
        credential.code = credential.code.take().filter(|code| is_code(code));
        credential.since = credential.since.take().and_then(|since| time(&since));
    }
    if let Some(remote) = &mut proxy.remote {
        remote.checked = time(&remote.checked).unwrap_or_default();
        remote.since = time(&remote.since).unwrap_or_default();
        remote.message = shown(&remote.message, MAX_SENTENCE);
        remote.status = remote.status.filter(|status| (100..=599).contains(status));
    }
    proxy.config.last_refusal = sentence(proxy.config.last_refusal.take());
    proxy.run_config.checksum = proxy.run_config.checksum.take().filter(|checksum| is_sha256(checksum));
}

/// A text without what could be taken for something else on a screen, of at most `max` characters.
pub(crate) fn shown(text: &str, max: usize) -> String {
    let mut clean = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(|c| !is_hidden(*c));
    let mut kept: String = clean.by_ref().take(max).collect();
    if clean.next().is_some() {
        kept.pop();
        kept.push('…');
    }
    kept
}

fn sentence(text: Option<String>) -> Option<String> {
    text.map(|text| shown(&text, MAX_SENTENCE)).filter(|text| !text.trim().is_empty())
}

/// Control characters, and those that change the direction or join of what is around them.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn time(text: &str) -> Option<String> {
    let time: Timestamp = text.parse().ok()?;
    Some(Timestamp::from_second(time.as_second()).ok()?.to_string())
}

fn is_code(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn report(proxy: Value) -> WorkloadReport {
        read(json!({"version": "1", "proxies": [proxy]}).to_string().as_bytes()).unwrap().proxies.remove(0)
    }

    #[test]
    fn what_is_no_report_is_refused() {
        for body in ["", "[]", "null", "\"x\"", "{}", "{", "{\"proxies\": {}}", "{\"proxies\": []}"] {
            assert!(read(body.as_bytes()).is_err(), "{body}");
        }
        for proxy in [
            json!({"remote": {"reachable": "yes"}}),
            json!({"authentication": {"issuers": 5}}),
            json!({"credential": {"ready": "true"}}),
            json!({"suspended": {"a": 1}}),
        ] {
            let body = json!({"proxies": [proxy]}).to_string();
            assert!(matches!(read(body.as_bytes()), Err(BadReport::Unreadable(_))), "{body}");
        }
    }

    #[test]
    fn texts_are_bounded_and_hide_nothing() {
        let long = "é".repeat(5000);
        let proxy = report(json!({
            "name": long,
            "suspended": "a\u{1b}[31m\nb\u{202e}c\u{0}",
            "config": {"lastRefusal": "\u{200b} \n"},
            "authentication": {"issuers": (0..100).map(|n| json!({"issuer": n.to_string(), "message": long})).collect::<Vec<_>>()},
        }));
        assert_eq!(proxy.name.chars().count(), MAX_NAME);
        assert!(proxy.name.ends_with('…'));
        assert_eq!(proxy.suspended.as_deref(), Some("a[31m bc"));
        assert_eq!(proxy.config.last_refusal, None);
        let issuers = proxy.authentication.unwrap().issuers;
        assert_eq!(issuers.len(), MAX_ISSUERS);
        assert_eq!(issuers[0].message.chars().count(), MAX_SENTENCE);
    }

    #[test]
    fn what_is_no_time_code_checksum_or_status_is_dropped() {
        let proxy = report(json!({
            "remote": {"reachable": true, "checked": "yesterday", "since": "2026-01-02T03:04:05.678Z", "status": 9999},
            "credential": {"type": "tokenExchange", "code": "a b", "since": "0"},
            "runConfig": {"checksum": "xyz"},
        }));
        let remote = proxy.remote.unwrap();
        assert_eq!((remote.checked.as_str(), remote.since.as_str()), ("", "2026-01-02T03:04:05Z"));
        assert_eq!(remote.status, None);
        let credential = proxy.credential.unwrap();
        assert_eq!((credential.code, credential.since), (None, None));
        assert_eq!(proxy.run_config.checksum, None);
    }

    #[test]
    fn a_pod_speaks_for_one_proxy_only() {
        let body = json!({"proxies": [{"name": "a"}, {"name": "b"}]}).to_string();
        assert_eq!(read(body.as_bytes()).unwrap().proxies.len(), 1);
    }
}
