//! With which credential the MCP server is called.

use std::time::Duration;

use http::HeaderName;
use http::header::AUTHORIZATION;
use skep_api::address::Reach;
use skep_api::headers::may_carry_token;
use skep_api::runconfig::{
    AwsStsConfig, ClientAuthMethod, GrantType, RunConfig, TokenExchangeConfig, TokenExchangeExtension,
};
use skep_api::secret::Secret;
use skep_auth::aws::AwsSettings;
use skep_auth::exchange::{ClientAuth, ExchangeSettings, Grant, TokenType};
use url::Url;

use super::secrets::Secrets;
use super::{ConfigError, FixedHeader, middleware};

/// Environment variable with the client's secret at the token endpoint.
const CLIENT_SECRET: &str = "TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET";
/// For one call to a token endpoint or to STS.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a refusal of a caller's token is kept when nothing is said.
const NEGATIVE_TTL: u64 = 5;
/// The longest that it may be kept.
const MAX_NEGATIVE_TTL: u64 = 10;

/// Where credentials for the MCP server come from.
#[derive(Debug, Clone)]
pub enum OutgoingSettings {
    /// None is made: there are fixed headers at most.
    Fixed,
    /// From a token endpoint.
    Exchange {
        /// Which, and what is asked of it.
        settings: Box<ExchangeSettings>,
        /// Header that carries the token.
        header: HeaderName,
    },
    /// From AWS.
    Aws(Box<AwsSettings>),
}

/// Makes the settings of the outgoing credential.
///
/// # Errors
/// The first thing in them that is wrong.
pub(super) fn settings(
    run: &RunConfig,
    stages: &middleware::Stages,
    fixed: &[FixedHeader],
    secrets: &mut Secrets<'_>,
) -> Result<OutgoingSettings, ConfigError> {
    let fixed = |name: &HeaderName| fixed.iter().any(|fixed| fixed.name == *name);
    match (&stages.token_exchange, &stages.aws_sts) {
        (None, None) => {
            unused("skep.token_exchange", run.skep.token_exchange == TokenExchangeExtension::default())?;
            unused("skep.aws", run.skep.aws == skep_api::runconfig::AwsExtension::default())?;
            Ok(OutgoingSettings::Fixed)
        }
        (Some(_), Some(_)) => {
            Err(ConfigError::Contradiction { first: "token_exchange_config", second: "aws_sts_config" })
        }
        (Some(exchange), None) => {
            let header = token_header(exchange)?;
            if fixed(&header) {
                return Err(ConfigError::Contradiction {
                    first: "the header of the exchanged token",
                    second: "a configured header of the same name",
                });
            }
            let settings = Box::new(exchange_settings(exchange, &run.skep.token_exchange, secrets)?);
            Ok(OutgoingSettings::Exchange { settings, header })
        }
        (None, Some(aws)) => {
            if run.remote_url.is_empty() {
                return Err(invalid("aws_sts_config", "it requires a remote URL: AWS signs for its host"));
            }
            if fixed(&AUTHORIZATION) {
                return Err(ConfigError::Contradiction {
                    first: "aws_sts_config",
                    second: "a configured Authorization header",
                });
            }
            Ok(OutgoingSettings::Aws(Box::new(aws_settings(aws, run, secrets)?)))
        }
    }
}

/// A setting for something that is not there protects nothing, and somebody thinks that it does.
fn unused(key: &'static str, absent: bool) -> Result<(), ConfigError> {
    if absent { Ok(()) } else { Err(invalid(key, "it belongs to a credential that is not configured")) }
}

fn aws_settings(
    aws: &AwsStsConfig,
    run: &RunConfig,
    secrets: &mut Secrets<'_>,
) -> Result<AwsSettings, ConfigError> {
    let extension = &run.skep.aws;
    let ca_pem = optional_file("skep.aws.ca_cert_path", &extension.ca_cert_path, secrets)?;
    let ca_pem = ca_pem.map(|pem| pem.expose().as_bytes().to_vec());
    AwsSettings::new(aws, extension, ca_pem, secrets.surroundings.egress.clone()).map_err(ConfigError::Aws)
}

fn token_header(exchange: &TokenExchangeConfig) -> Result<HeaderName, ConfigError> {
    const KEY: &str = "token_exchange_config.external_token_header_name";
    let name = exchange.external_token_header_name.as_str();
    match exchange.header_strategy.as_str() {
        "" | "replace" if name.is_empty() => Ok(AUTHORIZATION),
        "" | "replace" => {
            Err(invalid(KEY, "it has a meaning only with header_strategy \"custom\"; remove one of the two"))
        }
        "custom" if name.is_empty() => Err(invalid(KEY, "header_strategy \"custom\" needs it")),
        "custom" => {
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| invalid(KEY, &format!("{name:?} is not a header name")))?;
            if !may_carry_token(header.as_str()) {
                return Err(invalid(KEY, &format!("header {name:?} is restricted and cannot carry a token")));
            }
            Ok(header)
        }
        other => Err(invalid(
            "token_exchange_config.header_strategy",
            &format!("{other:?} is unknown; write \"replace\" or \"custom\""),
        )),
    }
}

fn exchange_settings(
    exchange: &TokenExchangeConfig,
    extension: &TokenExchangeExtension,
    secrets: &mut Secrets<'_>,
) -> Result<ExchangeSettings, ConfigError> {
    const URL: &str = "token_exchange_config.token_url";
    if !exchange.client_secret.is_empty() {
        return Err(invalid(
            "token_exchange_config.client_secret",
            "a secret has no place in this file; set TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET",
        ));
    }
    let token_url = Url::parse(&exchange.token_url).map_err(|_| invalid(URL, "it is not a URL"))?;
    if !matches!(token_url.scheme(), "http" | "https") || token_url.host_str().is_none_or(str::is_empty) {
        return Err(invalid(URL, "it must be an https URL with a host"));
    }
    if !token_url.username().is_empty() || token_url.password().is_some() || token_url.fragment().is_some() {
        return Err(invalid(URL, "it has no user name, password or fragment (RFC 6749 §3.2)"));
    }
    let ca_pem = optional_file("skep.token_exchange.ca_cert_path", &extension.ca_cert_path, secrets)?;
    let (client_auth, credential_file) = client_auth(exchange, extension, secrets)?;
    let negative = extension.negative_ttl_seconds.unwrap_or(NEGATIVE_TTL);
    if negative > MAX_NEGATIVE_TTL {
        return Err(invalid("skep.token_exchange.negative_ttl_seconds", "it is 10 at most"));
    }
    if !extension.resource.is_empty()
        && Url::parse(&extension.resource).map_or(true, |url| url.fragment().is_some())
    {
        let reason = "it must be an absolute URI without a fragment (RFC 8707 §2)";
        return Err(invalid("skep.token_exchange.resource", reason));
    }
    Ok(ExchangeSettings {
        // A token endpoint that a manifest names may lie inside the network, and ToolHive accepts http.
        reach: Reach { http: token_url.scheme() == "http", private: true },
        token_url,
        client_id: exchange.client_id.clone(),
        client_auth,
        credential_file,
        grant: grant(exchange, extension, secrets)?,
        actor_file: Some(extension.actor_token_file.as_str()).filter(|path| !path.is_empty()).map(Into::into),
        audience: exchange.audience.clone(),
        resource: extension.resource.clone(),
        scopes: exchange.scopes.clone(),
        ca_pem: ca_pem.map(|pem| pem.expose().as_bytes().to_vec()),
        egress: secrets.surroundings.egress.clone(),
        ttl_cap: extension.ttl_cap_seconds.map(Duration::from_secs),
        negative_ttl: Duration::from_secs(negative),
        timeout: TIMEOUT,
    })
}

fn grant(
    exchange: &TokenExchangeConfig,
    extension: &TokenExchangeExtension,
    secrets: &mut Secrets<'_>,
) -> Result<Grant, ConfigError> {
    const KIND: &str = "token_exchange_config.subject_token_type";
    const ACTOR: &str = "skep.token_exchange.actor_token_file";
    let subject_type = match exchange.subject_token_type.as_str() {
        "" => None,
        text => Some(token_type(text).ok_or_else(|| {
            invalid(KIND, &format!("{text:?} is unknown; write \"access_token\", \"id_token\" or \"jwt\""))
        })?),
    };
    let actor = optional_file(ACTOR, &extension.actor_token_file, secrets)?;
    match extension.grant_type {
        GrantType::TokenExchange => Ok(Grant::TokenExchange {
            subject_type: subject_type.unwrap_or(TokenType::AccessToken),
            actor: actor.map(|token| (token, TokenType::Jwt)),
        }),
        GrantType::ClientCredentials if subject_type.is_some() => {
            Err(invalid(KIND, "grant type client_credentials exchanges no subject's token"))
        }
        GrantType::ClientCredentials if actor.is_some() => {
            Err(invalid(ACTOR, "grant type client_credentials has no actor"))
        }
        GrantType::ClientCredentials => Ok(Grant::ClientCredentials),
    }
}

fn token_type(text: &str) -> Option<TokenType> {
    match text.strip_prefix("urn:ietf:params:oauth:token-type:").unwrap_or(text) {
        "access_token" => Some(TokenType::AccessToken),
        "id_token" => Some(TokenType::IdToken),
        "jwt" => Some(TokenType::Jwt),
        _ => None,
    }
}

/// How the proxy proves itself, and the file that the proof was read from.
fn client_auth(
    exchange: &TokenExchangeConfig,
    extension: &TokenExchangeExtension,
    secrets: &mut Secrets<'_>,
) -> Result<(ClientAuth, Option<std::path::PathBuf>), ConfigError> {
    use ClientAuthMethod as Method;
    const METHOD: &str = "skep.token_exchange.client_auth";
    const ASSERTION: &str = "skep.token_exchange.client_assertion_file";
    const CERTIFICATE: &str = "skep.token_exchange.client_certificate_file";
    const KEY: &str = "skep.token_exchange.client_certificate_key_file";
    let method = extension.client_auth;
    for (key, given, wanted) in [
        (ASSERTION, !extension.client_assertion_file.is_empty(), method == Method::SpiffeJwt),
        (CERTIFICATE, !extension.client_certificate_file.is_empty(), method == Method::TlsClientAuth),
        (KEY, !extension.client_certificate_key_file.is_empty(), method == Method::TlsClientAuth),
        (
            "skep.token_exchange.client_key_id",
            !extension.client_key_id.is_empty(),
            method == Method::PrivateKeyJwt,
        ),
    ] {
        let required = wanted && key != "skep.token_exchange.client_key_id";
        if given && !wanted {
            return Err(invalid(key, "it belongs to another method of client authentication"));
        }
        if required && !given {
            return Err(invalid(key, "the method of client authentication needs it"));
        }
    }
    if exchange.client_id.is_empty() && !matches!(method, Method::Default | Method::SpiffeJwt) {
        return Err(invalid(
            "token_exchange_config.client_id",
            "the method of client authentication needs it",
        ));
    }
    let secret_file = secrets.path(CLIENT_SECRET);
    if secret_file.is_some() && matches!(method, Method::SpiffeJwt | Method::TlsClientAuth) {
        return Err(ConfigError::Contradiction {
            first: METHOD,
            second: "a file with the client's secret in skep.secret_files",
        });
    }
    let secret = secrets.variable(CLIENT_SECRET)?;
    let needed = |secret: Option<Secret>| {
        secret.ok_or_else(|| ConfigError::SecretMissing {
            key: METHOD,
            name: "of the client".to_owned(),
            variable: CLIENT_SECRET.to_owned(),
        })
    };
    Ok(match method {
        Method::Default => match secret {
            Some(_) if exchange.client_id.is_empty() => {
                return Err(invalid(
                    "token_exchange_config.client_id",
                    "a client secret without it can't be used",
                ));
            }
            Some(secret) => (ClientAuth::SecretBasic(secret), secret_file),
            None if secret_file.is_some() => (ClientAuth::SecretBasic(needed(None)?), secret_file),
            None => (ClientAuth::Public, None),
        },
        Method::ClientSecretBasic => (ClientAuth::SecretBasic(needed(secret)?), secret_file),
        Method::ClientSecretPost => (ClientAuth::SecretPost(needed(secret)?), secret_file),
        Method::PrivateKeyJwt => {
            let key_id = Some(extension.client_key_id.clone()).filter(|id| !id.is_empty());
            (ClientAuth::PrivateKeyJwt { key: needed(secret)?, key_id }, secret_file)
        }
        Method::SpiffeJwt => {
            let path = &extension.client_assertion_file;
            (ClientAuth::SpiffeJwt(secrets.file(ASSERTION, path)?), Some(path.into()))
        }
        Method::TlsClientAuth => {
            let certificate = secrets.file(CERTIFICATE, &extension.client_certificate_file)?;
            let key = secrets.file(KEY, &extension.client_certificate_key_file)?;
            (ClientAuth::Tls { certificate, key }, None)
        }
    })
}

fn optional_file(
    key: &'static str,
    path: &str,
    secrets: &mut Secrets<'_>,
) -> Result<Option<Secret>, ConfigError> {
    if path.is_empty() { Ok(None) } else { secrets.file(key, path).map(Some) }
}

pub(super) fn invalid(key: &'static str, reason: &str) -> ConfigError {
    ConfigError::Invalid { key, reason: reason.to_owned() }
}
