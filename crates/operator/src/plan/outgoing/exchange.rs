//! Token exchange (RFC 8693) and the proxy's own service account (RFC 6749 §4.4): `tokenExchange`.

use skep_api::crd::parse::{CONFLICTING_FIELDS, INVALID_FIELD};
use skep_api::crd::token_exchange::{ActorTokenSpec, ClientAuthSpec, DEFAULT_JWT_SVID_FILE, TokenExchange};
use skep_api::headers::may_carry_token;
use skep_api::names::{ACTOR_TOKEN_DIR, ACTOR_TOKEN_FILE, secret_file};
use skep_api::runconfig::{GrantType, TokenExchangeConfig, TokenExchangeExtension};
use url::Url;

use super::super::findings::Findings;
use super::super::{EnvSource, FileSource, KeySource, ca_bundle, duration, remote_url};
use super::headers::check_name;
use super::{NOT_SUPPORTED, Outgoing};

const AT: &str = "spec.tokenExchange";
/// Seconds that the ServiceAccount's token for the token endpoint lasts; kubelet renews it before.
const ACTOR_TOKEN_SECONDS: u32 = 3600;
/// Longest time in seconds that a refusal is kept.
const MAX_NEGATIVE_TTL: u64 = 10;
/// Keys of a Secret of type `kubernetes.io/tls`.
const TLS_KEYS: [&str; 2] = ["tls.crt", "tls.key"];

/// Judges the block.
pub(super) fn check(exchange: &TokenExchange, findings: &mut Findings<'_>) {
    let url = endpoint(exchange, findings);
    client(exchange, url.as_ref(), findings);
    request(exchange, findings);
    actor(exchange, url.as_ref(), findings);
    svid_file(exchange, findings);
    cache(exchange, findings);
    ca_bundle::plan(exchange.ca_bundle_ref.as_ref(), &format!("{AT}.caBundleRef"), findings);
    if let Some(name) = &exchange.external_token_header_name {
        let path = format!("{AT}.externalTokenHeaderName");
        let errors = findings.errors();
        check_name(&path, name, findings);
        if findings.errors() == errors && !may_carry_token(name) {
            findings.error(
                path,
                "RestrictedHeader",
                format!("The header `{name}` says something about the message itself, and a token in its place would break that. Choose another."),
            );
        }
    }
    if exchange.subject_provider_name.is_some() {
        findings.error(
            format!("{AT}.subjectProviderName"),
            NOT_SUPPORTED,
            "This version has no embedded authorization server, so there is no upstream provider to choose. The caller's own token is exchanged. Remove it.",
        );
    }
}

fn endpoint(exchange: &TokenExchange, findings: &mut Findings<'_>) -> Option<Url> {
    let path = &exchange.token_url_path;
    let url = Url::parse(&exchange.token_url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(url) = url else {
        findings.error(path, INVALID_FIELD, "The token endpoint is not an https URL.");
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        findings.error(
            path,
            INVALID_FIELD,
            "The token endpoint has no user name, no password and no fragment (RFC 6749 §3.2).",
        );
    }
    if let Some(why) = remote_url::never_called(&url, findings.world.is_local()) {
        findings.error(path, INVALID_FIELD, why);
    } else if url.scheme() == "http" && !findings.world.is_local() {
        findings.warning(path, "InsecureTokenURL", "The token endpoint is plain http: tokens and the client secret can be read on the way. Use https.");
    }
    Some(url)
}

/// How the proxy proves itself: each method has what it needs, and nothing that it would pass over.
fn client(exchange: &TokenExchange, url: Option<&Url>, findings: &mut Findings<'_>) {
    let method = exchange.client_auth;
    let said = method.map_or("the default", ClientAuthSpec::as_str);
    let wants_secret = match method {
        Some(
            ClientAuthSpec::ClientSecretBasic
            | ClientAuthSpec::ClientSecretPost
            | ClientAuthSpec::PrivateKeyJwt,
        ) => Some(true),
        Some(ClientAuthSpec::SpiffeJwt | ClientAuthSpec::TlsClientAuth) => Some(false),
        None => None,
    };
    if let Some(secret) = &exchange.client_secret_ref {
        findings.secret(&format!("{AT}.clientSecretRef"), "SecretNotFound", &secret.name, &secret.key);
        if wants_secret == Some(false) {
            findings.error(
                format!("{AT}.clientSecretRef"),
                CONFLICTING_FIELDS,
                format!("With `clientAuth: {said}` no client secret is sent. Remove it."),
            );
        }
    } else if wants_secret == Some(true) {
        findings.error(
            format!("{AT}.clientSecretRef"),
            INVALID_FIELD,
            format!("`clientAuth: {said}` needs a client secret, or a private key. Add `clientSecretRef`."),
        );
    }
    let needs_id = exchange.client_secret_ref.is_some()
        || wants_secret == Some(true)
        || method == Some(ClientAuthSpec::TlsClientAuth);
    if needs_id && exchange.client_id.is_none() {
        findings.error(
            format!("{AT}.clientId"),
            INVALID_FIELD,
            "A client secret, key or certificate without a client id can't be used.",
        );
    }
    if exchange.client_key_id.is_some() && method != Some(ClientAuthSpec::PrivateKeyJwt) {
        findings.error(
            format!("{AT}.clientKeyId"),
            CONFLICTING_FIELDS,
            "Only `clientAuth: private_key_jwt` signs with a key that has an id. Remove it, or say so.",
        );
    }
    let tls = method == Some(ClientAuthSpec::TlsClientAuth);
    match &exchange.client_certificate {
        Some(name) => {
            let path = format!("{AT}.clientCertificateRef.name");
            findings.secret_keys(&path, "SecretNotFound", name, &TLS_KEYS);
            if !tls {
                findings.error(
                    format!("{AT}.clientCertificateRef"),
                    CONFLICTING_FIELDS,
                    "Only `clientAuth: tls_client_auth` shows a certificate. Remove it, or say so.",
                );
            }
        }
        None if tls => findings.error(
            format!("{AT}.clientCertificateRef"),
            INVALID_FIELD,
            "`clientAuth: tls_client_auth` needs a certificate. Add `clientCertificateRef`.",
        ),
        None => {}
    }
    if tls && url.is_some_and(|url| url.scheme() == "http") {
        findings.error(
            format!("{AT}.clientAuth"),
            CONFLICTING_FIELDS,
            "Over plain http no certificate is shown. Use an https token endpoint.",
        );
    }
}

/// What is asked for.
fn request(exchange: &TokenExchange, findings: &mut Findings<'_>) {
    let service_account = exchange.grant_type == GrantType::ClientCredentials;
    if service_account && exchange.client_auth.is_none() && exchange.client_secret_ref.is_none() {
        findings.error(
            format!("{AT}.grantType"),
            INVALID_FIELD,
            "`client_credentials` is for clients that can prove themselves (RFC 6749 §4.4). Add `clientSecretRef`, or another `clientAuth`.",
        );
    }
    if let Some(kind) = &exchange.subject_token_type {
        let path = format!("{AT}.subjectTokenType");
        if subject_token_type(kind).is_none() {
            findings.error(
                path,
                INVALID_FIELD,
                format!("`{kind}` is not a token type: `access_token`, `id_token`, `jwt`, or one of their URNs (RFC 8693 §3)."),
            );
        } else if service_account {
            findings.error(
                path,
                CONFLICTING_FIELDS,
                "With `grantType: client_credentials` no caller's token is sent. Remove it.",
            );
        }
    }
    if !exchange.resource.is_empty()
        && !Url::parse(&exchange.resource).is_ok_and(|url| url.fragment().is_none())
    {
        findings.error(
            format!("{AT}.resource"),
            INVALID_FIELD,
            format!(
                "`{}` is not an absolute URI without a fragment (RFC 8707 §2).",
                exchange.resource.escape_debug()
            ),
        );
    }
    for (index, scope) in exchange.scopes.iter().enumerate() {
        if !super::super::oidc_rules::is_scope(scope) {
            findings.error(
                format!("{AT}.scopes[{index}]"),
                INVALID_FIELD,
                "A scope has no blanks, quotes or backslashes (RFC 6749 §3.3).",
            );
        }
    }
}

fn actor(exchange: &TokenExchange, url: Option<&Url>, findings: &mut Findings<'_>) {
    let path = format!("{AT}.actorToken");
    if exchange.actor_token != ActorTokenSpec::None && exchange.grant_type == GrantType::ClientCredentials {
        findings.error(
            &path,
            CONFLICTING_FIELDS,
            "With `grantType: client_credentials` there is no subject that somebody could act for. Remove it.",
        );
    }
    if exchange.actor_token == ActorTokenSpec::ServiceAccount && findings.world.is_local() {
        findings.error(
            &path,
            NOT_SUPPORTED,
            "There are tokens of ServiceAccounts only inside a cluster. Use `none` or `spiffe` here.",
        );
    }
    let Some(audience) = &exchange.actor_token_audience else { return };
    let path = format!("{AT}.actorTokenAudience");
    if exchange.actor_token != ActorTokenSpec::ServiceAccount {
        findings.error(
            path,
            CONFLICTING_FIELDS,
            "Only `actorToken: serviceAccount` asks for a token with an audience. Remove it, or say so.",
        );
    } else if url.is_some_and(|url| {
        // A token that is good elsewhere, at the API server for one, must not be sent to this endpoint.
        !Url::parse(audience).is_ok_and(|found| found.has_host() && found.origin() == url.origin())
    }) {
        findings.error(
            path,
            INVALID_FIELD,
            format!("`{}` is not a URL of the token endpoint's own origin. The token is sent there, so it may be good nowhere else.", audience.escape_debug()),
        );
    }
}

fn uses_svid(exchange: &TokenExchange) -> bool {
    exchange.client_auth == Some(ClientAuthSpec::SpiffeJwt) || exchange.actor_token == ActorTokenSpec::Spiffe
}

/// File with the JWT-SVID, when one is needed.
pub(super) fn svid(exchange: &TokenExchange) -> Option<&str> {
    let file = exchange.spiffe.as_ref().and_then(|spiffe| spiffe.jwt_svid_file.as_deref());
    uses_svid(exchange).then(|| file.filter(|file| !file.is_empty()).unwrap_or(DEFAULT_JWT_SVID_FILE))
}

fn svid_file(exchange: &TokenExchange, findings: &mut Findings<'_>) {
    if exchange.spiffe.is_some() && !uses_svid(exchange) {
        findings.error(
            format!("{AT}.spiffe"),
            CONFLICTING_FIELDS,
            "Neither `clientAuth: spiffe_jwt` nor `actorToken: spiffe` is said, so this has no meaning. Remove it, or say so.",
        );
    }
    let Some(file) = svid(exchange) else { return };
    let mut directories: Vec<&str> = file.split('/').collect();
    directories.pop();
    let plain = file.starts_with('/') && !file.ends_with('/') && !directories.contains(&"..");
    let spiffe = |part: &&str| part.contains("spiffe") || part.contains("spire");
    // On this machine the file is its user's own; in a pod there are tokens for others.
    if !plain || !(findings.world.is_local() || directories.iter().any(spiffe)) {
        findings.error(
            format!("{AT}.spiffe.jwtSvidFile"),
            INVALID_FIELD,
            format!("`{}` would be sent to the token endpoint, so it has to be an absolute path through a directory that has `spiffe` or `spire` in its name.", file.escape_debug()),
        );
    }
}

fn cache(exchange: &TokenExchange, findings: &mut Findings<'_>) {
    for (field, text, max, bound) in [
        ("ttlCap", &exchange.cache.ttl_cap, u64::MAX, "such as `5m`"),
        ("negativeTtl", &exchange.cache.negative_ttl, MAX_NEGATIVE_TTL, "at most `10s`"),
    ] {
        if let Some(text) = text
            && duration::seconds(text, max).is_none()
        {
            findings.error(
                format!("{AT}.cache.{field}"),
                INVALID_FIELD,
                format!("`{}` is not a duration of whole seconds, {bound}.", text.escape_debug()),
            );
        }
    }
}

fn subject_token_type(kind: &str) -> Option<&'static str> {
    match kind {
        "access_token" | "urn:ietf:params:oauth:token-type:access_token" => Some("access_token"),
        "id_token" | "urn:ietf:params:oauth:token-type:id_token" => Some("id_token"),
        "jwt" | "urn:ietf:params:oauth:token-type:jwt" => Some("jwt"),
        _ => None,
    }
}

/// Plans the exchange into `outgoing`; `path` is that of the reference.
pub(super) fn plan(
    exchange: &TokenExchange,
    path: &str,
    outgoing: &mut Outgoing,
    findings: &mut Findings<'_>,
) {
    let secret = |name: &str, key: &str| FileSource {
        path: secret_file(name, key),
        source: KeySource::Secret { name: name.to_owned(), key: key.to_owned() },
    };
    let mut extension = TokenExchangeExtension {
        client_auth: exchange.client_auth.map(Into::into).unwrap_or_default(),
        grant_type: exchange.grant_type,
        resource: exchange.resource.clone(),
        client_key_id: exchange.client_key_id.clone().unwrap_or_default(),
        ttl_cap_seconds: exchange.cache.ttl_cap.as_deref().and_then(|text| duration::seconds(text, u64::MAX)),
        negative_ttl_seconds: exchange
            .cache
            .negative_ttl
            .as_deref()
            .and_then(|text| duration::seconds(text, MAX_NEGATIVE_TTL)),
        ..TokenExchangeExtension::default()
    };
    if let Some(reference) = &exchange.client_secret_ref {
        findings.secret(path, "ExternalAuthSecretNotFound", &reference.name, &reference.key);
        outgoing.env.push(EnvSource {
            name: "TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET".to_owned(),
            secret: reference.name.clone(),
            key: reference.key.clone(),
        });
    }
    if let Some(name) = &exchange.client_certificate {
        findings.secret_keys(path, "ExternalAuthSecretNotFound", name, &TLS_KEYS);
        for (key, target) in TLS_KEYS
            .into_iter()
            .zip([&mut extension.client_certificate_file, &mut extension.client_certificate_key_file])
        {
            *target = secret_file(name, key);
            outgoing.files.push(secret(name, key));
        }
    }
    if let Some(bundle) = ca_bundle::plan(exchange.ca_bundle_ref.as_ref(), path, findings) {
        extension.ca_cert_path.clone_from(&bundle.file.path);
        outgoing.files.push(bundle.file);
    }
    if let Some(file) = svid(exchange) {
        if exchange.client_auth == Some(ClientAuthSpec::SpiffeJwt) {
            file.clone_into(&mut extension.client_assertion_file);
        }
        if exchange.actor_token == ActorTokenSpec::Spiffe {
            file.clone_into(&mut extension.actor_token_file);
        }
    }
    if exchange.actor_token == ActorTokenSpec::ServiceAccount {
        let audience = exchange
            .actor_token_audience
            .clone()
            .or_else(|| Url::parse(&exchange.token_url).ok().map(|url| url.origin().ascii_serialization()));
        extension.actor_token_file = format!("{ACTOR_TOKEN_DIR}/{ACTOR_TOKEN_FILE}");
        outgoing.files.push(FileSource {
            path: extension.actor_token_file.clone(),
            source: KeySource::ServiceAccountToken {
                audience: audience.unwrap_or_default(),
                expiration_seconds: ACTOR_TOKEN_SECONDS,
            },
        });
    }
    outgoing.token_exchange = Some(config(exchange));
    outgoing.exchange_extension = extension;
}

fn config(exchange: &TokenExchange) -> TokenExchangeConfig {
    // `Authorization` by name is what is done without a name.
    let header = exchange
        .external_token_header_name
        .clone()
        .filter(|name| !name.eq_ignore_ascii_case("authorization"))
        .unwrap_or_default();
    TokenExchangeConfig {
        token_url: exchange.token_url.clone(),
        client_id: exchange.client_id.clone().unwrap_or_default(),
        client_secret: String::new(),
        audience: exchange.audience.clone(),
        scopes: exchange.scopes.clone(),
        subject_token_type: exchange
            .subject_token_type
            .as_deref()
            .and_then(subject_token_type)
            .unwrap_or_default()
            .to_owned(),
        header_strategy: if header.is_empty() { "replace" } else { "custom" }.to_owned(),
        external_token_header_name: header,
    }
}
