//! MCPWebhookConfig.

use std::collections::BTreeSet;
use std::time::Duration;

use skep_api::crd::Kind;
use skep_api::crd::parse::INVALID_FIELD;
use skep_api::crd::webhooks::{Webhook, WebhookConfigSpec, WebhookTls};
use url::Url;

use super::findings::Findings;
use super::{Planned, configs, duration, remote_url};

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// Judges an MCPWebhookConfig by itself.
pub(super) fn plan(config: &WebhookConfigSpec, mut findings: Findings<'_>) -> Planned {
    let (validating, mutating) = (config.validating.as_deref(), config.mutating.as_deref());
    let lists = [("validating", validating.unwrap_or_default()), ("mutating", mutating.unwrap_or_default())];
    if lists.iter().all(|(_, list)| list.is_empty()) {
        findings.error("spec", INVALID_FIELD, "There is no webhook. Add one to `validating` or `mutating`.");
    }
    for (field, list) in lists {
        let mut names = BTreeSet::new();
        for (index, webhook) in list.iter().enumerate() {
            let at = format!("spec.{field}[{index}]");
            if !names.insert(webhook.name.as_str()) {
                findings.warning(
                    format!("{at}.name"),
                    "DuplicateEntry",
                    "Another webhook of this list has this name; records and metrics can't tell them apart.",
                );
            }
            one(webhook, &at, &mut findings);
        }
    }
    configs::valid(Kind::MCPWebhookConfig, findings)
}

fn one(webhook: &Webhook, at: &str, findings: &mut Findings<'_>) {
    let tls = webhook.tls_config.as_ref();
    url(webhook, tls.is_some_and(|tls| tls.insecure_skip_verify == Some(true)), at, findings);
    if let Some(text) = &webhook.timeout
        && !duration::parse(text).is_some_and(|timeout| (SHORTEST..=LONGEST).contains(&timeout))
    {
        findings.error(
            format!("{at}.timeout"),
            INVALID_FIELD,
            "The timeout is a duration from `1s` to `30s`, such as `5s`.",
        );
    }
    if let Some(secret) = &webhook.hmac_secret_ref {
        findings.secret(&format!("{at}.hmacSecretRef"), "SecretNotFound", &secret.name, &secret.key);
    }
    if let Some(tls) = tls {
        certificates(tls, &format!("{at}.tlsConfig"), findings);
    }
}

fn url(webhook: &Webhook, insecure: bool, at: &str, findings: &mut Findings<'_>) {
    let path = format!("{at}.url");
    let url = Url::parse(&webhook.url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(url) = url else {
        findings.error(path, INVALID_FIELD, "This is not an https URL.");
        return;
    };
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        findings.error(
            &path,
            INVALID_FIELD,
            "The URL has no user name, no password and no fragment; requests are signed with `hmacSecretRef`.",
        );
    }
    if let Some(why) = remote_url::never_called(&url, findings.world.is_local()) {
        findings.error(path, INVALID_FIELD, why);
    } else if url.scheme() == "http" && !insecure {
        findings.error(
            path,
            INVALID_FIELD,
            "The URL is plain http: whoever is on the way could read calls and decide about them. Use https, or for development `tlsConfig.insecureSkipVerify: true`.",
        );
    }
}

fn certificates(tls: &WebhookTls, at: &str, findings: &mut Findings<'_>) {
    for (field, secret) in [
        ("caSecretRef", &tls.ca_secret_ref),
        ("clientCertSecretRef", &tls.client_cert_secret_ref),
        ("clientKeySecretRef", &tls.client_key_secret_ref),
    ] {
        if let Some(secret) = secret {
            findings.secret(&format!("{at}.{field}"), "SecretNotFound", &secret.name, &secret.key);
        }
    }
    if tls.client_cert_secret_ref.is_some() != tls.client_key_secret_ref.is_some() {
        findings.error(
            at,
            INVALID_FIELD,
            "A client certificate and its key belong together: give both `clientCertSecretRef` and `clientKeySecretRef`, or none.",
        );
    }
    if tls.insecure_skip_verify == Some(true) {
        findings.warning(
            format!("{at}.insecureSkipVerify"),
            "InsecureWebhook",
            "Any certificate is taken, so whoever is on the way can decide about calls. For development only.",
        );
    }
}
