//! Whether callers need an identity, and what becomes of their token.

use skep_api::crd::external_auth::ExternalAuthType;
use skep_api::crd::reference::AuthServerRef;
use skep_api::crd::{Kind, Spec};
use skep_api::runconfig::ClientToken;
use url::Url;

use super::findings::Findings;
use super::outgoing::{NOT_SUPPORTED, Outgoing};

/// Refuses `authServerRef`, which a later version runs.
pub(super) fn auth_server(reference: Option<&AuthServerRef>, findings: &mut Findings<'_>) {
    let Some(reference) = reference else { return };
    if let Some(kind) =
        reference.kind.as_deref().filter(|kind| !matches!(*kind, "MCPExternalAuthConfig" | "MCPAuthServer"))
    {
        findings.error(
            "spec.authServerRef.kind",
            "AuthServerRefInvalidKind",
            format!("`{kind}` is not a kind of authorization server; `MCPExternalAuthConfig` is."),
        );
    }
    findings.error("spec.authServerRef", NOT_SUPPORTED, "This version has no embedded authorization server yet. Use `oidcConfigRef` with an identity provider of your own.");
    let (reason, message) = unusable(reference, findings);
    findings.fails("AuthServerRefValidated", reason, message);
}

/// Why an authorization server can't be used. This version has none, so there is always a reason.
fn unusable(reference: &AuthServerRef, findings: &Findings<'_>) -> (&'static str, String) {
    let none = "This version has no embedded authorization server yet.".to_owned();
    match reference.kind.as_deref() {
        None | Some("MCPExternalAuthConfig") => {}
        Some("MCPAuthServer") => return ("AuthServerRefInvalidConfig", none),
        Some(kind) => {
            let message = format!("`{}` is not a kind of authorization server.", kind.escape_debug());
            return ("AuthServerRefInvalidKind", message);
        }
    }
    let name = reference.name.escape_debug();
    let Some(object) = findings.world.config(Kind::MCPExternalAuthConfig, &reference.name) else {
        let message = findings.absence(&format!("The MCPExternalAuthConfig `{name}`"));
        return ("AuthServerRefNotFound", message);
    };
    match &object.spec {
        Spec::ExternalAuth(config) if config.kind() != ExternalAuthType::EmbeddedAuthServer => {
            let message = format!(
                "The MCPExternalAuthConfig `{name}` has the type `{}`, which is no authorization server.",
                config.kind().as_str()
            );
            ("AuthServerRefInvalidType", message)
        }
        _ => ("AuthServerRefInvalidConfig", none),
    }
}

/// What the caller's token is, seen from the remote server.
pub(super) struct Caller<'s> {
    /// `clientToken`.
    pub(super) said: Option<ClientToken>,
    /// Audiences of the tokens that are let in, of all issuers; none when nobody needs one.
    pub(super) audiences: Vec<&'s str>,
    pub(super) remote: Option<&'s Url>,
}

/// Decides what becomes of the caller's token. It goes further only when that is said, or when the
/// token was made for the remote server.
pub(super) fn client_token(
    caller: &Caller<'_>,
    outgoing: &Outgoing,
    findings: &mut Findings<'_>,
) -> ClientToken {
    let own_credential = outgoing.configured
        || has_authorization(outgoing.headers.add_plaintext_headers.keys())
        || has_authorization(outgoing.headers.add_headers_from_secret.keys());
    match caller.said {
        Some(ClientToken::Forward) if own_credential => {
            findings.error(
                "spec.clientToken",
                skep_api::crd::parse::CONFLICTING_FIELDS,
                "`clientToken: forward` and a credential of the proxy's own exclude each other. Keep one.",
            );
            ClientToken::Strip
        }
        Some(said) => said,
        None if own_credential => ClientToken::Strip,
        None => {
            let (false, Some(remote)) = (caller.audiences.is_empty(), caller.remote) else {
                return ClientToken::Strip;
            };
            // One that is for somebody else is enough: which one a caller has is not known here.
            let Some(audience) = caller.audiences.iter().find(|audience| !is_for(audience, remote)) else {
                return ClientToken::Forward;
            };
            findings.warning(
                "spec.clientToken",
                "ClientTokenStripped",
                format!("Tokens are made for `{audience}`, not for the remote server, so they end here and the remote server sees no credential. Say `clientToken: strip` if that is intended, `clientToken: forward` if the remote server takes these tokens, or add `externalAuthConfigRef`."),
            );
            ClientToken::Strip
        }
    }
}

fn has_authorization<'s>(mut names: impl Iterator<Item = &'s String>) -> bool {
    names.any(|name| name.eq_ignore_ascii_case("authorization"))
}

/// True when the audience is the remote URL's origin or host.
fn is_for(audience: &str, remote: &Url) -> bool {
    let origin = remote.origin().ascii_serialization();
    let host = remote.host_str().unwrap_or_default();
    let audience = audience.strip_suffix('/').unwrap_or(audience);
    !host.is_empty() && (audience.eq_ignore_ascii_case(&origin) || audience.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_the_remote_server_only_by_origin_or_host() {
        let remote = Url::parse("https://mcp.example.com/api").unwrap();
        for (audience, expected) in [
            ("https://mcp.example.com", true),
            ("https://mcp.example.com/", true),
            ("mcp.example.com", true),
            ("https://mcp.example.com:8443", false),
            ("http://mcp.example.com", false),
            ("https://mcp.example.com.evil.example", false),
            ("example.com", false),
            ("https://mcp.example.com/api", false),
            ("", false),
        ] {
            assert_eq!(is_for(audience, &remote), expected, "{audience}");
        }
    }
}
