//! What `/status` says of a proxy.

use jiff::Timestamp;
use skep_api::report::{
    AuthenticationReport, ConfigReport, CredentialKind, CredentialReason, CredentialReport, IssuerReason,
    IssuerReport, RunConfigReport, WorkloadReport,
};
use skep_auth::authenticator::{Authenticator, TrustedIssuer};
use skep_auth::exchange::ExchangeReadiness;
use skep_auth::provider::{KeysErrorKind, LastFetch};

use super::Proxy;
use crate::stages::outgoing::Outgoing;

/// Characters of a text that came from elsewhere.
const MAX_TEXT: usize = 500;

impl Proxy {
    /// What `/status` says of this proxy. It holds no secret.
    pub fn report(&self) -> WorkloadReport {
        let Ok(current) = self.current.lock() else { return WorkloadReport::default() };
        WorkloadReport {
            name: current.config.name.clone(),
            target: skep_auth::client::redacted(&current.config.target),
            suspended: current.config.suspended.as_ref().map(|suspension| suspension.reason.clone()),
            authentication: current.authenticator.as_deref().map(authentication),
            credential: credential(&current.outgoing),
            backend_available: self.backend_up.lock().ok().and_then(|up| *up),
            remote: self.remote.report(),
            config: ConfigReport {
                reloads: current.reloads,
                refused: current.refused,
                last_refusal: current.last_refusal.clone(),
            },
            run_config: RunConfigReport { checksum: current.config.checksum.clone() },
        }
    }
}

/// A time of day as reports have it: whole seconds.
pub(super) fn rfc3339(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

fn authentication(authenticator: &Authenticator) -> AuthenticationReport {
    AuthenticationReport {
        issuer: authenticator.issuers().next().map(|issuer| issuer.issuer.as_str().to_owned()),
        available: authenticator.issuers().all(TrustedIssuer::is_available),
        issuers: authenticator.issuers().map(issuer).collect(),
    }
}

fn issuer(issuer: &TrustedIssuer) -> IssuerReport {
    let available = issuer.is_available();
    let (reason, message, since) = state(issuer, available);
    IssuerReport {
        issuer: issuer.issuer.as_str().to_owned(),
        available,
        reason,
        message: message.chars().take(MAX_TEXT).collect(),
        since: since.map(rfc3339),
    }
}

fn state(issuer: &TrustedIssuer, available: bool) -> (IssuerReason, String, Option<Timestamp>) {
    let asked = issuer.introspector.as_ref().and_then(|introspector| introspector.last_asked());
    if let Some(asked) = &asked
        && let Some(failure) = &asked.failure
    {
        return (IssuerReason::IntrospectionFailed, failure.clone(), Some(asked.since));
    }
    let keys = issuer.keys.as_ref();
    let has_keys = keys.is_some_and(|keys| keys.has_keys());
    match keys.and_then(|keys| keys.last_fetch()) {
        Some(LastFetch { failure: None, since }) if has_keys => {
            (IssuerReason::Available, String::new(), Some(since))
        }
        Some(LastFetch { failure: Some((_, failure)), since }) if has_keys => {
            (IssuerReason::KeysOutdated, failure, Some(since))
        }
        Some(LastFetch { failure: Some((kind, failure)), since }) if !available => {
            let reason = match kind {
                KeysErrorKind::Discovery => IssuerReason::DiscoveryFailed,
                KeysErrorKind::Unreachable | KeysErrorKind::NotFetched => IssuerReason::KeysUnreachable,
                KeysErrorKind::Unusable => IssuerReason::KeysUnusable,
            };
            (reason, failure, Some(since))
        }
        // The keys were good for a day, and nobody has asked since.
        Some(LastFetch { failure: None, .. }) if !available => {
            (IssuerReason::KeysUnreachable, "the keys are too old".to_owned(), None)
        }
        _ if available => (IssuerReason::Available, String::new(), asked.map(|asked| asked.since)),
        _ => (IssuerReason::NotTried, String::new(), None),
    }
}

fn credential(outgoing: &Outgoing) -> Option<CredentialReport> {
    let (kind, (readiness, since)) = match outgoing {
        Outgoing::Fixed => return None,
        Outgoing::Exchange { exchanger, .. } => (CredentialKind::TokenExchange, exchanger.readiness_since()),
        Outgoing::Aws(sts) => (CredentialKind::AwsSts, sts.readiness_since()),
    };
    let (ready, reason, code) = match readiness {
        ExchangeReadiness::Unknown => (None, CredentialReason::NotTriedOfLate, None),
        ExchangeReadiness::Ready => (Some(true), CredentialReason::Ready, None),
        ExchangeReadiness::Refused(code) => (Some(false), CredentialReason::Refused, Some(code.to_owned())),
        ExchangeReadiness::Unusable => (Some(false), CredentialReason::UnusableAnswer, None),
        ExchangeReadiness::Unavailable => (Some(false), CredentialReason::Unavailable, None),
    };
    Some(CredentialReport { kind, ready, reason, code, since: since.map(rfc3339) })
}
