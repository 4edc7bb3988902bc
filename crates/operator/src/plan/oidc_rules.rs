//! Rules for an issuer's tokens that ToolHive has no key for.

use std::collections::BTreeSet;

use skep_api::crd::oidc::InlineOidc;
use skep_api::crd::parse::CONFLICTING_FIELDS;
use skep_api::runconfig::{ClaimMappings, IssuerRules};

use super::findings::Findings;
use super::oidc::{AUTH_INVALID, Block};
use super::oidc_settings::{Endpoint, endpoint};

/// Part of an issuer that a tenant id stands for.
pub(super) const TENANT: &str = "{tenantid}";

/// Judges everything but times, algorithms and introspection, and writes it into `rules`.
pub(super) fn plan(inline: &InlineOidc, at: &Block, rules: &mut IssuerRules, findings: &mut Findings<'_>) {
    rules.audiences = words(inline.audiences.as_deref(), at, "audiences", findings);
    rules.authorized_parties = words(inline.authorized_parties.as_deref(), at, "authorizedParties", findings);
    rules.accept_id_token = inline.accept_id_token.unwrap_or(false);
    rules.profile = inline.profile.map(Into::into).unwrap_or_default();
    rules.plain_client_subjects = inline.plain_client_subjects.unwrap_or(false);
    if rules.accept_id_token {
        if rules.profile == skep_api::runconfig::TokenProfile::Rfc9068 {
            findings.error(
                at.field("acceptIdToken"),
                CONFLICTING_FIELDS,
                "`profile: rfc9068` lets only access tokens in, and `acceptIdToken` ID tokens too. Keep one.",
            );
        }
        findings.warning(
            at.field("acceptIdToken"),
            "IDTokenAccepted",
            "An ID token says who logged in to some client, not what that client may do here.",
        );
    }
    discovery(inline, at, rules, findings);
    scopes(inline, at, rules, findings);
    claims(inline, at, rules, findings);
    pins(inline, at, rules, findings);
}

/// The issuers that tokens may name: one, or one for each tenant.
pub(super) fn issuers(issuer: &str, tenants: &[String]) -> BTreeSet<String> {
    // One slash at the end has no meaning, as in ToolHive.
    let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
    if tenants.is_empty() {
        return BTreeSet::from([issuer.to_owned()]);
    }
    tenants.iter().map(|tenant| issuer.replace(TENANT, tenant)).collect()
}

fn words(list: Option<&[String]>, at: &Block, field: &str, findings: &mut Findings<'_>) -> Vec<String> {
    for (index, word) in list.unwrap_or_default().iter().enumerate() {
        if word.is_empty() {
            findings.error(
                format!("{}[{index}]", at.field(field)),
                AUTH_INVALID,
                format!("An entry of `{field}` is empty."),
            );
        }
    }
    list.unwrap_or_default().to_vec()
}

fn discovery(inline: &InlineOidc, at: &Block, rules: &mut IssuerRules, findings: &mut Findings<'_>) {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let jwks = given(&inline.jwks_url);
    if let Some(url) = given(&inline.discovery_url) {
        let insecure = inline.insecure_allow_http.unwrap_or(false);
        endpoint(&url, &at.field("discoveryUrl"), Endpoint::Discovery, insecure, findings);
        if jwks.is_some() {
            findings.error(
                at.field("discoveryUrl"),
                CONFLICTING_FIELDS,
                "With `jwksUrl` nothing is discovered, so `discoveryUrl` has no meaning. Keep one.",
            );
        }
        rules.discovery_url = url;
    }
    rules.tenants = inline.tenants.clone().unwrap_or_default();
    let templated = inline.issuer.contains(TENANT);
    match (templated, rules.tenants.is_empty()) {
        (true, true) => findings.error(
            at.field("tenants"),
            AUTH_INVALID,
            format!("The issuer has the part `{TENANT}`: without `tenants`, users of every tenant would be let in. List those that may."),
        ),
        (false, false) => findings.error(
            at.field("tenants"),
            CONFLICTING_FIELDS,
            format!("The issuer has no part `{TENANT}` that these could stand for. Remove them, or correct the issuer."),
        ),
        _ => {}
    }
    if templated && rules.discovery_url.is_empty() && jwks.is_none() {
        findings.error(
            at.field("discoveryUrl"),
            AUTH_INVALID,
            format!("The keys of an issuer with `{TENANT}` can't be found below it. Add `discoveryUrl` or `jwksUrl`."),
        );
    }
    for (index, tenant) in rules.tenants.iter().enumerate() {
        if tenant.is_empty() || !tenant.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            findings.error(
                format!("{}[{index}]", at.field("tenants")),
                AUTH_INVALID,
                format!("`{}` is not a tenant id.", tenant.escape_debug()),
            );
        }
    }
}

fn scopes(inline: &InlineOidc, at: &Block, rules: &mut IssuerRules, findings: &mut Findings<'_>) {
    rules.required_scopes = inline.required_scopes.clone().unwrap_or_default();
    rules.scope_map = inline.scope_map.clone().unwrap_or_default();
    for (index, scope) in rules.required_scopes.iter().enumerate() {
        if !is_scope(scope) {
            findings.error(
                format!("{}[{index}]", at.field("requiredScopes")),
                AUTH_INVALID,
                format!(
                    "`{}` is not one scope: it has no blanks, quotes or backslashes (RFC 6749 §3.3).",
                    scope.escape_debug()
                ),
            );
        }
    }
    for (asked, had) in &rules.scope_map {
        if !is_scope(asked) || !is_scope(had) {
            findings.error(
                format!("{}.{asked}", at.field("scopeMap")),
                AUTH_INVALID,
                format!(
                    "`{}: {}` is not from one scope to another (RFC 6749 §3.3).",
                    asked.escape_debug(),
                    had.escape_debug()
                ),
            );
        }
    }
}

fn claims(inline: &InlineOidc, at: &Block, rules: &mut IssuerRules, findings: &mut Findings<'_>) {
    let Some(mappings) = &inline.claim_mappings else { return };
    for (field, claim) in mappings.given() {
        // A claim named by a URL has dots and slashes in its name.
        let parts = !claim.contains("://") && claim.split('.').any(str::is_empty);
        if claim.is_empty() || parts || claim.chars().any(|c| c.is_control() || c.is_whitespace()) {
            findings.error(
                at.field(&format!("claimMappings.{field}")),
                AUTH_INVALID,
                format!("`{}` is neither a claim's name nor a dotted path.", claim.escape_debug()),
            );
        }
    }
    let text = |claim: &Option<String>| claim.clone().unwrap_or_default();
    rules.claim_mappings = ClaimMappings {
        subject: text(&mappings.subject),
        email: text(&mappings.email),
        name: text(&mappings.name),
        groups: text(&mappings.groups),
        roles: text(&mappings.roles),
    };
}

fn pins(inline: &InlineOidc, at: &Block, rules: &mut IssuerRules, findings: &mut Findings<'_>) {
    for (index, pin) in inline.jwks_pins.iter().flatten().enumerate() {
        match digest(pin) {
            Some(digest) => rules.jwks_pins.push(digest),
            None => findings.error(
                format!("{}[{index}]", at.field("jwksPins")),
                AUTH_INVALID,
                format!(
                    "`{}` is not a SHA-256 digest: 64 hexadecimal digits, or 44 characters of base64.",
                    pin.escape_debug()
                ),
            ),
        }
    }
    if let Some(fingerprint) = &inline.jwks_cert_fingerprint {
        match hexadecimal(fingerprint) {
            Some(digest) => rules.jwks_cert_fingerprint = digest,
            None => findings.error(
                at.field("jwksCertFingerprint"),
                AUTH_INVALID,
                format!(
                    "`{}` is not a SHA-256 fingerprint: 64 hexadecimal digits, with or without colons.",
                    fingerprint.escape_debug()
                ),
            ),
        }
    }
    let pinned = inline.jwks_cert_fingerprint.is_some() || inline.jwks_pins.iter().flatten().next().is_some();
    let addresses = [
        Some(&inline.issuer),
        inline.jwks_url.as_ref(),
        inline.discovery_url.as_ref(),
        inline.introspection_url.as_ref(),
    ];
    if pinned && addresses.into_iter().flatten().any(|url| url.starts_with("http://")) {
        findings.error(
            at.field(if inline.jwks_cert_fingerprint.is_some() { "jwksCertFingerprint" } else { "jwksPins" }),
            CONFLICTING_FIELDS,
            "Over plain http no server shows a key that could be compared. Use https.",
        );
    }
}

/// A scope (RFC 6749 §3.3).
pub(super) fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// A pin in lower-case hexadecimal.
fn digest(text: &str) -> Option<String> {
    let bare = text.strip_prefix("sha256/").or_else(|| text.strip_prefix("sha256:")).unwrap_or(text);
    hexadecimal(bare).or_else(|| base64(bare))
}

fn hexadecimal(text: &str) -> Option<String> {
    let bare: String = text.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
    (bare.len() == 64 && bare.bytes().all(|b| b.is_ascii_hexdigit())).then_some(bare)
}

/// 32 bytes of base64, of either alphabet, as hexadecimal.
fn base64(text: &str) -> Option<String> {
    use std::fmt::Write as _;
    let bare = text.strip_suffix('=').unwrap_or(text);
    if bare.len() != 43 {
        return None;
    }
    let (mut bits, mut held) = (0_u32, 0_u32);
    let mut found = String::with_capacity(64);
    for byte in bare.bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            let _ = write!(found, "{:02x}", (bits >> held) & 0xff);
            bits &= (1 << held) - 1;
        }
    }
    // What is left over of the last character has to be nothing.
    (bits == 0).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_in_every_form_that_tools_print() {
        let hex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let colons = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| String::from_utf8_lossy(pair).to_uppercase())
            .collect::<Vec<_>>()
            .join(":");
        for text in [
            hex,
            &colons,
            "ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7v8=",
            "ABEiM0RVZneImaq7zN3u_wARIjNEVWZ3iJmqu8zd7v8",
            "sha256/ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7v8=",
        ] {
            assert_eq!(digest(text).as_deref(), Some(hex), "{text}");
        }
        for text in ["", "sha256/abc", "0011", "ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7v9="] {
            assert_eq!(digest(text), None, "{text}");
        }
    }

    #[test]
    fn a_scope_is_one_word() {
        for (text, expected) in [
            ("mcp.read", true),
            ("api://app/read", true),
            ("a b", false),
            ("", false),
            ("a\"b", false),
            ("ä", false),
        ] {
            assert_eq!(is_scope(text), expected, "{text}");
        }
    }
}
