//! Single settings of an OIDC config: each is judged and written into what is planned.

use skep_api::crd::oidc::InlineOidc;
use skep_api::crd::reference::CaBundleSource;
use skep_api::names::CA_DIR;
use url::Url;

use super::duration;
use super::findings::Findings;
use super::oidc::{AUTH_INVALID, Authentication, Block};
use super::outgoing::{NOT_SUPPORTED, NOT_YET_RUNNABLE};
use super::remote_url::is_loopback;
use super::{EnvSource, FileSource, KeySource};

pub(super) const CLUSTER_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
/// Largest tolerance for clocks.
const MAX_CLOCK_SKEW: u64 = 300;

/// Which URL is judged.
#[derive(Clone, Copy)]
pub(super) enum Endpoint {
    Issuer,
    Jwks,
}

impl Endpoint {
    fn invalid(self) -> &'static str {
        match self {
            Self::Issuer => "OIDCIssuerInvalid",
            Self::Jwks => "JWKSURLInvalid",
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
    } else if url.fragment().is_some() || (matches!(what, Endpoint::Issuer) && url.query().is_some()) {
        findings.error(
            path,
            what.invalid(),
            "The URL of an issuer has no query and no fragment (OpenID Connect Discovery 1.0 §3).",
        );
    }
    let near = findings.world.is_local() && is_loopback(&url);
    if url.scheme() == "http" && !insecure && !near {
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
    let Some(key) = source.and_then(|source| source.config_map_ref.as_ref()) else { return };
    let path = at.field("caBundleRef");
    let name = key.key.as_deref().unwrap_or("ca.crt");
    match findings.world.config_maps.get(&key.name) {
        None => {
            findings.missing_detail(path, "CABundleRefNotFound", &format!("The ConfigMap `{}`", key.name))
        }
        Some(data) => match data.get(name) {
            None => findings.missing_detail(
                path,
                "CABundleRefNotFound",
                &format!("The key `{name}` of the ConfigMap `{}`", key.name),
            ),
            Some(text) if !text.contains("-----BEGIN CERTIFICATE-----") => {
                findings.error(
                    path,
                    "CABundleRefInvalid",
                    format!("`{name}` of the ConfigMap `{}` holds no PEM certificate.", key.name),
                );
                findings.fails(
                    "CABundleRefValidated",
                    "CABundleRefInvalid",
                    "The CA bundle holds no certificate.",
                );
            }
            Some(_) => findings.holds("CABundleRefValidated", "CABundleRefValid", "The CA bundle is there."),
        },
    }
    let file = format!("{CA_DIR}/{}/{name}", key.name);
    planned.config.ca_cert_path.clone_from(&file);
    planned.files.push(FileSource {
        path: file,
        source: KeySource::ConfigMap { name: key.name.clone(), key: name.to_owned() },
    });
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
    let receiver = jwks.or(issuer);
    if file == CLUSTER_TOKEN && receiver.is_some_and(|url| is_api_server(url.as_str())) {
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
    Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_ascii_lowercase)).is_some_and(|host| {
        matches!(
            host.as_str(),
            "kubernetes.default" | "kubernetes.default.svc" | "kubernetes.default.svc.cluster.local"
        )
    })
}

pub(super) fn introspection(
    inline: &InlineOidc,
    at: &Block,
    planned: &mut Authentication,
    findings: &mut Findings<'_>,
) {
    warn_introspection(&planned.config.introspection_url, at, findings);
    if inline.client_secret.is_some() {
        findings.warning(at.field("clientSecret"), "SecretInManifest", "A secret in a manifest can be read by everybody who can read the object. It is not passed on: put it into a Secret and use `clientSecretRef`.");
    }
    if let Some(secret) = &inline.client_secret_ref {
        findings.secret(&at.field("clientSecretRef"), "OIDCClientSecretNotFound", &secret.name, &secret.key);
        planned.env.push(EnvSource {
            name: "TOOLHIVE_OIDC_CLIENT_SECRET".to_owned(),
            secret: secret.name.clone(),
            key: secret.key.clone(),
        });
    }
}

pub(super) fn warn_introspection(url: &str, at: &Block, findings: &mut Findings<'_>) {
    if !url.is_empty() {
        findings.warning(at.field("introspectionUrl"), NOT_YET_RUNNABLE, "This is planned, but the proxy of this version knows JWTs only and refuses to start with an introspection URL.");
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
            planned.allowed_algorithms.push(algorithm.clone());
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
    match duration::parse(text).map(|skew| skew.as_secs()) {
        Some(seconds) if seconds <= MAX_CLOCK_SKEW => planned.clock_skew_seconds = Some(seconds),
        _ => findings.error(
            at.field("clockSkew"),
            AUTH_INVALID,
            format!("`{text}` is not a duration of at most 5m, such as `30s`."),
        ),
    }
}

/// Fields that a later version runs. They protect something, so they are refused rather than passed over.
pub(super) fn not_yet(inline: &InlineOidc, at: &Block, findings: &mut Findings<'_>) {
    for (field, there) in [
        (
            "claimMappings",
            inline.claim_mappings.as_ref().is_some_and(|mappings| !mappings.given().is_empty()),
        ),
        ("jwksCertFingerprint", inline.jwks_cert_fingerprint.is_some()),
        ("jwksPins", inline.jwks_pins.as_ref().is_some_and(|pins| !pins.is_empty())),
        ("requiredScopes", inline.required_scopes.as_ref().is_some_and(|scopes| !scopes.is_empty())),
    ] {
        if there {
            findings.error(
                at.field(field),
                NOT_SUPPORTED,
                format!(
                    "This version does not run `{field}` yet, and does not drop it in silence. Remove it."
                ),
            );
        }
    }
}
