//! Single settings of an OIDC config: each is judged and written into what is planned.

use skep_api::address::is_loopback;
use skep_api::crd::oidc::InlineOidc;
use skep_api::crd::reference::CaBundleSource;
use skep_api::runconfig::OidcConfig;
use skep_auth::introspection::Dialect;
use url::Url;

use super::EnvSource;
use super::ca_bundle::{self, CaBundleState};
use super::duration;
use super::findings::Findings;
use super::oidc::{AUTH_INVALID, Authentication, Block};
use super::remote_url;

pub(super) const CLUSTER_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
/// Largest tolerance for clocks, in seconds.
const MAX_CLOCK_SKEW: u64 = 300;
/// Longest time in seconds that the answer about an opaque token is kept.
const MAX_INTROSPECTION_CACHE: u64 = 3600;
/// Variable of the client secret for introspection. There is one introspection endpoint at most.
pub(super) const CLIENT_SECRET: &str = "TOOLHIVE_OIDC_CLIENT_SECRET";

/// Which URL is judged.
#[derive(Clone, Copy)]
pub(super) enum Endpoint {
    /// `called` when the keys are found below it.
    Issuer {
        called: bool,
    },
    Jwks,
    Discovery,
    Introspection,
}

impl Endpoint {
    fn invalid(self) -> &'static str {
        match self {
            Self::Issuer { .. } => "OIDCIssuerInvalid",
            Self::Jwks => "JWKSURLInvalid",
            Self::Discovery => "DiscoveryURLInvalid",
            Self::Introspection => "IntrospectionURLInvalid",
        }
    }
}

pub(super) fn endpoint(
    text: &str,
    path: &str,
    what: Endpoint,
    insecure: bool,
    findings: &mut Findings<'_>,
) -> Option<Url> {
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        _ => {
            findings.error(path, what.invalid(), format!("`{text}` is not an https URL."));
            return None;
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        findings.error(path, what.invalid(), "The URL holds a user name or password.");
    } else if url.fragment().is_some() || (matches!(what, Endpoint::Issuer { .. }) && url.query().is_some()) {
        findings.error(
            path,
            what.invalid(),
            "The URL has no fragment, and that of an issuer no query (OpenID Connect Discovery 1.0 §3).",
        );
    }
    let local = findings.world.is_local();
    let called = !matches!(what, Endpoint::Issuer { called: false });
    // For its own tokens the API server is called.
    let refused = remote_url::never_called(&url, local).filter(|_| called && !is_api_server(text));
    if let Some(why) = refused {
        findings.error(path, what.invalid(), why);
    } else if url.scheme() == "http" && !insecure && !(local && is_loopback(&url)) {
        findings.error(
            path,
            "OIDCIssuerInsecure",
            "The URL is plain http. Use https; `insecureAllowHTTP: true` is for development only.",
        );
    }
    Some(url)
}

pub(super) fn resource_url(
    text: Option<&str>,
    path: &str,
    planned: &mut Authentication,
    findings: &mut Findings<'_>,
) {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return };
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.fragment().is_none() => {
            text.clone_into(&mut planned.config.resource_url);
        }
        _ => findings.error(
            path,
            AUTH_INVALID,
            format!("`{text}` is not an http or https URL without a fragment (RFC 8707 §2)."),
        ),
    }
}

pub(super) fn ca_bundle(
    source: Option<&CaBundleSource>,
    at: &Block,
    planned: &mut Authentication,
    findings: &mut Findings<'_>,
) {
    let Some(bundle) = ca_bundle::plan(source, &at.field("caBundleRef"), findings) else { return };
    match bundle.state {
        CaBundleState::Valid => {
            findings.holds_too("CABundleRefValidated", "CABundleRefValid", "The CA bundle is there.");
        }
        CaBundleState::Invalid => findings.fails(
            "CABundleRefValidated",
            "CABundleRefInvalid",
            "The CA bundle holds no certificate.",
        ),
        CaBundleState::NotFound => {
            let message = findings.absence("The ConfigMap with the CA bundle, or the key in it,");
            findings.fails("CABundleRefValidated", "CABundleRefNotFound", message);
        }
    }
    planned.config.ca_cert_path.clone_from(&bundle.file.path);
    planned.files.push(bundle.file);
}

pub(super) fn token_file(
    inline: &InlineOidc,
    at: &Block,
    issuer: Option<&Url>,
    jwks: Option<&Url>,
    planned: &mut Authentication,
    findings: &mut Findings<'_>,
) {
    let Some(file) = inline.jwks_auth_token_path.as_deref().filter(|file| !file.is_empty()) else { return };
    // Introspection is asked with it too.
    let keys = jwks.map(Url::as_str).or(inline.discovery_url.as_deref()).or(issuer.map(Url::as_str));
    let introspection = inline.introspection_url.as_deref().filter(|url| !url.is_empty());
    let receivers = [keys, introspection];
    if file == CLUSTER_TOKEN && keys.is_some() && receivers.into_iter().flatten().all(is_api_server) {
        file.clone_into(&mut planned.config.auth_token_file);
    } else {
        findings.error(
            at.field("jwksAuthTokenPath"),
            AUTH_INVALID,
            format!("This file would be sent to the issuer. Only `{CLUSTER_TOKEN}` may be, and only to the Kubernetes API server. Remove the field."),
        );
    }
}

pub(super) fn is_api_server(url: &str) -> bool {
    Url::parse(url).ok().is_some_and(|url| url.host_str().is_some_and(skep_api::address::is_api_server))
}

/// How opaque tokens are asked about: the endpoint, and the proxy's own credential there.
pub(super) fn introspection(
    inline: &InlineOidc,
    at: &Block,
    planned: &mut Authentication,
    findings: &mut Findings<'_>,
) {
    let url = inline.introspection_url.as_deref().unwrap_or_default();
    if !url.is_empty() {
        let insecure = inline.insecure_allow_http.unwrap_or(false);
        let url = endpoint(url, &at.field("introspectionUrl"), Endpoint::Introspection, insecure, findings);
        if inline.client_secret_ref.is_none() && url.is_some_and(|url| Dialect::of(&url) == Dialect::GitHub) {
            findings.error(
                at.field("clientSecretRef"),
                AUTH_INVALID,
                "GitHub tells only an OAuth app about its tokens. Add `clientId` and `clientSecretRef`.",
            );
        }
    }
    if inline.client_secret.is_some() {
        findings.warning(at.field("clientSecret"), "SecretInManifest", "A secret in a manifest can be read by everybody who can read the object. It is not passed on: put it into a Secret and use `clientSecretRef`.");
    }
    if url.is_empty() {
        unused_client(inline, at, findings);
    } else if let Some(secret) = &inline.client_secret_ref {
        findings.secret(&at.field("clientSecretRef"), "OIDCClientSecretNotFound", &secret.name, &secret.key);
        if inline.client_id.as_deref().unwrap_or_default().is_empty() {
            findings.error(
                at.field("clientId"),
                AUTH_INVALID,
                "A client secret without a client id can't be used for introspection. Add `clientId`.",
            );
        }
        planned.env.push(EnvSource {
            name: CLIENT_SECRET.to_owned(),
            secret: secret.name.clone(),
            key: secret.key.clone(),
        });
    }
    let Some(rules) = &inline.introspection else { return };
    if url.is_empty() {
        findings.error(
            at.field("introspection"),
            AUTH_INVALID,
            "Without `introspectionUrl` nobody is asked about tokens, so this has no meaning. Remove it, or add the URL.",
        );
    }
    if let Some(text) = &rules.cache_ttl {
        match duration::seconds(text, MAX_INTROSPECTION_CACHE) {
            Some(seconds) => planned.rules.introspection.cache_ttl_seconds = Some(seconds),
            None => findings.error(
                at.field("introspection.cacheTtl"),
                AUTH_INVALID,
                format!("`{text}` is not a duration of whole seconds, 1h at most, such as `30s`."),
            ),
        }
    }
}

/// ToolHive's manifests have a client where nothing is asked. Its secret is given to nobody.
fn unused_client(inline: &InlineOidc, at: &Block, findings: &mut Findings<'_>) {
    if inline.client_secret_ref.is_some() {
        findings.warning(
            at.field("clientSecretRef"),
            "UnusedClientSecret",
            "The client secret is for introspection, and there is no `introspectionUrl`, so the proxy does not get it. Remove it, or add the URL.",
        );
    } else if inline.client_id.as_ref().is_some_and(|id| !id.is_empty()) {
        findings.warning(
            at.field("clientId"),
            "UnusedClientId",
            "The client id is for introspection, and there is no `introspectionUrl`, so nobody uses it. Remove it, or add the URL.",
        );
    }
}

/// The API server is called for an issuer that it is in every respect, and for nothing else.
pub(super) fn api_server_alone(
    config: &OidcConfig,
    discovery: &str,
    at: &Block,
    findings: &mut Findings<'_>,
) {
    let first = [config.jwks_url.as_str(), discovery].into_iter().find(|url| !url.is_empty());
    let (keys, asked) = (first.unwrap_or(&config.issuer), config.introspection_url.as_str());
    if !asked.is_empty() && is_api_server(keys) != is_api_server(asked) {
        findings.error(
            at.field("introspectionUrl"),
            Endpoint::Introspection.invalid(),
            "The Kubernetes API server is called only for its own tokens, so it has the keys and answers about tokens, or neither. Remove this URL, or correct it.",
        );
    }
}

pub(super) fn algorithms(
    inline: &InlineOidc,
    at: &Block,
    planned: &mut Authentication,
    findings: &mut Findings<'_>,
) {
    for (index, algorithm) in inline.allowed_algorithms.iter().flatten().enumerate() {
        if ALGORITHMS.contains(&algorithm.as_str()) {
            planned.rules.allowed_algorithms.push(algorithm.clone());
        } else {
            findings.error(
                format!("{}[{index}]", at.field("allowedAlgorithms")),
                AUTH_INVALID,
                format!(
                    "`{algorithm}` is not an asymmetric signature algorithm that is supported. Those are {}.",
                    ALGORITHMS.join(", ")
                ),
            );
        }
    }
}

pub(super) fn clock_skew(
    inline: &InlineOidc,
    at: &Block,
    planned: &mut Authentication,
    findings: &mut Findings<'_>,
) {
    let Some(text) = &inline.clock_skew else { return };
    match duration::seconds(text, MAX_CLOCK_SKEW) {
        Some(seconds) => planned.rules.clock_skew_seconds = Some(seconds),
        None => findings.error(
            at.field("clockSkew"),
            AUTH_INVALID,
            format!("`{text}` is not a duration of whole seconds, 5m at most, such as `30s`."),
        ),
    }
}
