//! The credential for what lies behind the proxy, and headers that are added on the way.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use skep_api::crd::external_auth::{AwsSts, ExternalAuth, ExternalAuthType, TokenExchange};
use skep_api::crd::parse::INVALID_FIELD;
use skep_api::crd::pod::HeaderForwardSpec;
use skep_api::crd::{Kind, Spec};
use skep_api::headers::is_restricted;
use skep_api::names::{header_secret, secret_env};
use skep_api::runconfig::{AwsRoleMapping, AwsStsConfig, HeaderForward, TokenExchangeConfig};
use url::Url;

use super::EnvSource;
use super::findings::{EXTERNAL_AUTH_REF, Findings};

/// Reason of what is understood but that this version does not run.
pub(super) const NOT_SUPPORTED: &str = "NotSupported";
/// Reason of what is planned but that this version's proxy refuses to start with.
pub(super) const NOT_YET_RUNNABLE: &str = "NotYetRunnable";

/// What is sent to the backend besides the request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Outgoing {
    /// An externalAuthConfigRef is given, so the caller's token never goes further.
    pub(super) configured: bool,
    pub(super) headers: HeaderForward,
    pub(super) remote_auth: Option<Value>,
    pub(super) token_exchange: Option<TokenExchangeConfig>,
    pub(super) aws_sts: Option<AwsStsConfig>,
    pub(super) env: Vec<EnvSource>,
}

/// Who uses the credential.
pub(super) struct User<'s> {
    pub(super) name: &'s str,
    /// True for a remote proxy, false for an MCPServer, which knows fewer types.
    pub(super) remote: bool,
    /// Callers have an identity, or the manifest says in words that they need none.
    pub(super) authenticated: bool,
}

/// Plans the outgoing credential that `externalAuthConfigRef` names.
pub(super) fn plan(reference: Option<&str>, user: &User<'_>, findings: &mut Findings<'_>) -> Outgoing {
    let mut outgoing = Outgoing::default();
    let Some(name) = reference else { return outgoing };
    outgoing.configured = true;
    let path = "spec.externalAuthConfigRef.name";
    let Some(object) = findings.config(Kind::MCPExternalAuthConfig, name, path, EXTERNAL_AUTH_REF) else {
        return outgoing;
    };
    let Spec::ExternalAuth(config) = &object.spec else { return outgoing };
    if !user.remote
        && matches!(
            config.kind(),
            ExternalAuthType::HeaderInjection | ExternalAuthType::BearerToken | ExternalAuthType::AwsSts
        )
    {
        let message = format!(
            "An MCPServer's own container is not a remote server, so `{}` would have no effect. Use an MCPRemoteProxy, or remove the reference.",
            config.kind().as_str()
        );
        findings.fails(EXTERNAL_AUTH_REF.condition, EXTERNAL_AUTH_REF.not_valid, message.clone());
        findings.error(path, NOT_SUPPORTED, message);
        return outgoing;
    }
    match &**config {
        ExternalAuth::Unauthenticated => {}
        ExternalAuth::HeaderInjection(injection) => {
            findings.secret(
                path,
                "HeaderSecretNotFound",
                &injection.value_secret_ref.name,
                &injection.value_secret_ref.key,
            );
            let identifier = header_secret(&injection.header_name, user.name);
            outgoing.env.push(EnvSource {
                name: secret_env(&identifier),
                secret: injection.value_secret_ref.name.clone(),
                key: injection.value_secret_ref.key.clone(),
            });
            outgoing.headers.add_headers_from_secret.insert(injection.header_name.clone(), identifier);
        }
        ExternalAuth::BearerToken(bearer) => {
            let secret = &bearer.token_secret_ref;
            findings.secret(path, "ExternalAuthSecretNotFound", &secret.name, &secret.key);
            outgoing.env.push(EnvSource {
                name: secret_env(&secret.name),
                secret: secret.name.clone(),
                key: secret.key.clone(),
            });
            outgoing.remote_auth = Some(json!({
                "bearer_token": format!("{},target=bearer_token", secret.name),
                "use_pkce": false,
            }));
        }
        ExternalAuth::TokenExchange(exchange) => {
            if !user.authenticated {
                findings.error(
                    path,
                    "AuthRequired",
                    "A token exchange needs a caller's token, but no incoming auth is configured. Add `oidcConfigRef`, or say `authMode: anonymous`.",
                );
            }
            outgoing.token_exchange = Some(exchange_config(exchange));
            if let Some(secret) = &exchange.client_secret_ref {
                findings.secret(path, "ExternalAuthSecretNotFound", &secret.name, &secret.key);
                outgoing.env.push(EnvSource {
                    name: "TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET".to_owned(),
                    secret: secret.name.clone(),
                    key: secret.key.clone(),
                });
            }
            not_yet(path, config.kind(), findings);
        }
        ExternalAuth::AwsSts(aws) => {
            outgoing.aws_sts = Some(aws_config(aws));
            not_yet(path, config.kind(), findings);
        }
        ExternalAuth::Other(kind) => {
            let message = format!("This version does not run the type `{}` yet.", kind.as_str());
            findings.fails(EXTERNAL_AUTH_REF.condition, EXTERNAL_AUTH_REF.not_valid, message.clone());
            findings.error(path, NOT_SUPPORTED, message);
        }
    }
    outgoing
}

fn not_yet(path: &str, kind: ExternalAuthType, findings: &mut Findings<'_>) {
    findings.warning(
        path,
        NOT_YET_RUNNABLE,
        format!("This is planned, but the proxy of this version does not run `{}` yet and refuses to start with it.", kind.as_str()),
    );
}

/// Judges an MCPExternalAuthConfig by itself.
pub(super) fn check(config: &ExternalAuth, findings: &mut Findings<'_>) {
    match config {
        ExternalAuth::Unauthenticated | ExternalAuth::Other(_) => {}
        ExternalAuth::BearerToken(bearer) => {
            let secret = &bearer.token_secret_ref;
            findings.secret("spec.bearerToken.tokenSecretRef", "SecretNotFound", &secret.name, &secret.key);
        }
        ExternalAuth::HeaderInjection(injection) => {
            check_header("spec.headerInjection.headerName", &injection.header_name, findings);
            let secret = &injection.value_secret_ref;
            findings.secret(
                "spec.headerInjection.valueSecretRef",
                "SecretNotFound",
                &secret.name,
                &secret.key,
            );
        }
        ExternalAuth::TokenExchange(exchange) => check_exchange(exchange, findings),
        ExternalAuth::AwsSts(aws) => check_aws(aws, findings),
    }
}

fn check_exchange(exchange: &TokenExchange, findings: &mut Findings<'_>) {
    let at = "spec.tokenExchange";
    match Url::parse(&exchange.token_url) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
                findings.error(
                    &exchange.token_url_path,
                    INVALID_FIELD,
                    "The token endpoint has no user name, no password and no fragment (RFC 6749 §3.2).",
                );
            }
            if url.scheme() == "http" && !findings.world.is_local() {
                findings.warning(&exchange.token_url_path, "InsecureTokenURL", "The token endpoint is plain http: tokens and the client secret can be read on the way. Use https.");
            }
        }
        _ => {
            findings.error(&exchange.token_url_path, INVALID_FIELD, "The token endpoint is not an https URL.")
        }
    }
    if let Some(kind) = &exchange.subject_token_type
        && subject_token_type(kind).is_none()
    {
        findings.error(
            format!("{at}.subjectTokenType"),
            INVALID_FIELD,
            format!("`{kind}` is not a token type: `access_token`, `id_token`, `jwt`, or one of their URNs (RFC 8693 §3)."),
        );
    }
    if let Some(name) = &exchange.external_token_header_name {
        check_header(&format!("{at}.externalTokenHeaderName"), name, findings);
    }
    if let Some(secret) = &exchange.client_secret_ref {
        findings.secret(&format!("{at}.clientSecretRef"), "SecretNotFound", &secret.name, &secret.key);
        if exchange.client_id.as_deref().unwrap_or_default().is_empty() {
            findings.error(
                format!("{at}.clientId"),
                INVALID_FIELD,
                "A client secret without a client id can't be used.",
            );
        }
    }
    if exchange.subject_provider_name.is_some() {
        findings.error(
            format!("{at}.subjectProviderName"),
            NOT_SUPPORTED,
            "This version has no embedded authorization server, so there is no upstream provider to choose.",
        );
    }
    for (index, scope) in exchange.scopes.iter().enumerate() {
        if scope.is_empty() || scope.chars().any(|c| c.is_whitespace() || c == '"' || c == '\\') {
            findings.error(
                format!("{at}.scopes[{index}]"),
                INVALID_FIELD,
                "A scope has no blanks, quotes or backslashes (RFC 6749 §3.3).",
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

fn check_aws(aws: &AwsSts, findings: &mut Findings<'_>) {
    let at = "spec.awsSts";
    let mappings = aws.role_mappings.as_deref().unwrap_or_default();
    if aws.fallback_role_arn.is_none() && mappings.is_empty() {
        findings.error(
            at,
            INVALID_FIELD,
            "Either `fallbackRoleArn` or `roleMappings` is needed, or there is no role to take.",
        );
    }
    for (index, mapping) in mappings.iter().enumerate() {
        if mapping.claim.is_some() == mapping.matcher.is_some() {
            findings.error(
                format!("{at}.roleMappings[{index}]"),
                INVALID_FIELD,
                "Give exactly one of `claim` and `matcher`.",
            );
        }
    }
    if aws.session_duration.is_some_and(|seconds| !(900..=43200).contains(&seconds)) {
        findings.error(
            format!("{at}.sessionDuration"),
            INVALID_FIELD,
            "A session lasts from 900 to 43200 seconds.",
        );
    }
}

fn exchange_config(exchange: &TokenExchange) -> TokenExchangeConfig {
    let header = exchange.external_token_header_name.clone().unwrap_or_default();
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

fn aws_config(aws: &AwsSts) -> AwsStsConfig {
    let role_mappings = aws
        .role_mappings
        .iter()
        .flatten()
        .map(|mapping| AwsRoleMapping {
            claim: mapping.claim.clone().unwrap_or_default(),
            matcher: mapping.matcher.clone().unwrap_or_default(),
            role_arn: mapping.role_arn.clone(),
            priority: mapping.priority,
        })
        .collect();
    AwsStsConfig {
        region: aws.region.clone(),
        service: aws.service.clone().unwrap_or_else(|| "aws-mcp".to_owned()),
        fallback_role_arn: aws.fallback_role_arn.clone().unwrap_or_default(),
        role_mappings,
        role_claim: aws.role_claim.clone().unwrap_or_else(|| "groups".to_owned()),
        session_duration: Some(aws.session_duration.unwrap_or(3600)),
        session_name_claim: aws.session_name_claim.clone().unwrap_or_else(|| "sub".to_owned()),
        subject_provider_name: aws.subject_provider_name.clone().unwrap_or_default(),
    }
}

/// Adds `headerForward` to what is sent.
pub(super) fn headers(
    spec: &HeaderForwardSpec,
    name: &str,
    outgoing: &mut Outgoing,
    findings: &mut Findings<'_>,
) {
    let at = "spec.headerForward";
    let mut seen: BTreeMap<String, String> = outgoing
        .headers
        .add_headers_from_secret
        .keys()
        .map(|header| (header.to_ascii_lowercase(), header.clone()))
        .collect();
    let bearer = outgoing.remote_auth.is_some();
    let mut once = |path: &str, header: &str, findings: &mut Findings<'_>| {
        if let Some(other) = seen.insert(header.to_ascii_lowercase(), header.to_owned()) {
            findings.error(path, "DuplicateEntry", format!("The header `{other}` is set already; keep one."));
        }
        if header.eq_ignore_ascii_case("authorization") {
            if bearer {
                findings.error(
                    path,
                    "DuplicateEntry",
                    "The MCPExternalAuthConfig sets `Authorization` already; keep one.",
                );
            } else {
                findings.warning(
                    path,
                    "AuthorizationHeader",
                    "Every caller reaches the remote server with this one credential.",
                );
            }
        }
    };
    for (header, value) in spec.add_plaintext_headers.iter().flatten() {
        let path = format!("{at}.addPlaintextHeaders.{header}");
        check_header(&path, header, findings);
        once(&path, header, findings);
        if value.chars().any(|c| c.is_control() && c != '\t') {
            findings.error(&path, INVALID_FIELD, "A header's value can't hold control characters.");
        }
        if ["authorization", "cookie", "api-key", "apikey", "token", "secret"]
            .iter()
            .any(|word| header.to_ascii_lowercase().contains(word))
        {
            findings.warning(&path, "SecretInManifest", "This looks like a secret, and everybody who can read the object can read it. Use `addHeadersFromSecret`.");
        }
        outgoing.headers.add_plaintext_headers.insert(header.clone(), value.clone());
    }
    for (index, header) in spec.add_headers_from_secret.iter().flatten().enumerate() {
        let path = format!("{at}.addHeadersFromSecret[{index}]");
        check_header(&format!("{path}.headerName"), &header.header_name, findings);
        once(&format!("{path}.headerName"), &header.header_name, findings);
        let secret = &header.value_secret_ref;
        findings.secret(&format!("{path}.valueSecretRef"), "HeaderSecretNotFound", &secret.name, &secret.key);
        let identifier = header_secret(&header.header_name, name);
        outgoing.env.push(EnvSource {
            name: secret_env(&identifier),
            secret: secret.name.clone(),
            key: secret.key.clone(),
        });
        outgoing.headers.add_headers_from_secret.insert(header.header_name.clone(), identifier);
    }
}

fn check_header(path: &str, name: &str, findings: &mut Findings<'_>) {
    let lower = name.to_ascii_lowercase();
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(token) {
        findings.error(
            path,
            INVALID_FIELD,
            format!("`{}` is not the name of a header (RFC 9110 §5.1).", name.escape_debug()),
        );
    } else if is_restricted(&lower) || lower.starts_with("mcp-") {
        findings.error(path, "RestrictedHeader", format!("The header `{name}` is restricted: it belongs to the connection or to the protocol, and can't be set."));
    }
}
