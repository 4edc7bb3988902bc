//! How callers are known: `oidc_config` and the rules that go with it.

use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use skep_api::address::Reach;
use skep_api::runconfig::{OidcConfig, RunConfig};
use skep_auth::names::{Audience, Issuer};
use url::Url;

use super::{ConfigError, file};

/// How callers are known.
#[derive(Debug, Clone)]
pub enum AuthSettings {
    /// Everybody may call.
    Anonymous,
    /// By the tokens of one issuer.
    Token(Box<TokenSettings>),
}

/// Everything about one issuer's tokens.
#[derive(Debug, Clone)]
pub struct TokenSettings {
    /// Who issues them.
    pub issuer: Issuer,
    /// Where the keys are, when it is not left to discovery.
    pub jwks_url: Option<Url>,
    /// Whom they must be meant for; never empty.
    pub audiences: Vec<Audience>,
    /// Accepted signature algorithms.
    pub algorithms: Vec<Algorithm>,
    /// Tolerance for times.
    pub leeway: Duration,
    /// The resource's own URL, for its metadata.
    pub resource_url: Option<String>,
    /// Scopes that are advertised.
    pub scopes: Vec<String>,
    /// CA certificates for the issuer, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// File with a token for the key endpoint.
    pub token_file: Option<PathBuf>,
    /// What calls to the issuer may reach.
    pub reach: Reach,
}

pub(super) fn token_settings(
    oidc: &OidcConfig,
    run: &RunConfig,
    files: &mut Vec<PathBuf>,
) -> Result<TokenSettings, ConfigError> {
    let invalid = |key, reason: &str| ConfigError::Invalid { key, reason: reason.to_owned() };
    if !oidc.introspection_url.is_empty() {
        return Err(ConfigError::Unsupported { key: "oidc_config.IntrospectionURL".to_owned() });
    }
    if !oidc.client_secret.is_empty() {
        return Err(invalid(
            "oidc_config.ClientSecret",
            "a secret has no place in this file; set TOOLHIVE_OIDC_CLIENT_SECRET",
        ));
    }
    let issuer = Issuer::parse(&oidc.issuer, oidc.insecure_allow_http).map_err(ConfigError::Issuer)?;
    let mut audiences: Vec<Audience> = std::iter::once(&oidc.audience)
        .chain(&run.skep.issuer.audiences)
        .filter_map(|text| Audience::parse(text))
        .collect();
    if audiences.is_empty() {
        audiences.extend(Audience::parse(&oidc.resource_url));
    }
    if audiences.is_empty() {
        return Err(invalid(
            "oidc_config.Audience",
            "without an audience any token of the issuer would be accepted; set it, or ResourceURL",
        ));
    }
    let jwks_url = match oidc.jwks_url.as_str() {
        "" => None,
        text => {
            let url = Url::parse(text).map_err(|_| invalid("oidc_config.JWKSURL", "it is not a URL"))?;
            if url.scheme() != "https" && !(url.scheme() == "http" && oidc.insecure_allow_http) {
                return Err(invalid(
                    "oidc_config.JWKSURL",
                    "it must be https (InsecureAllowHTTP permits http)",
                ));
            }
            Some(url)
        }
    };
    let ca_path = if oidc.ca_cert_path.is_empty() { &run.thv_ca_bundle } else { &oidc.ca_cert_path };
    let ca_pem = match ca_path.as_str() {
        "" => None,
        path => Some(file("oidc_config.CACertPath", path, files)?),
    };
    let token_path =
        if oidc.auth_token_file.is_empty() { &run.jwks_auth_token_file } else { &oidc.auth_token_file };
    let token_file = match token_path.as_str() {
        "" => None,
        path => {
            file("oidc_config.AuthTokenFile", path, files)?;
            Some(PathBuf::from(path))
        }
    };
    let resource_url = match oidc.resource_url.as_str() {
        "" => None,
        text => {
            Url::parse(text).map_err(|_| invalid("oidc_config.ResourceURL", "it is not a URL"))?;
            Some(text.to_owned())
        }
    };
    Ok(TokenSettings {
        issuer,
        jwks_url,
        audiences,
        algorithms: algorithms(&run.skep.issuer.allowed_algorithms)?,
        leeway: Duration::from_secs(run.skep.issuer.clock_skew_seconds.unwrap_or(30)),
        resource_url,
        scopes: oidc.scopes.clone(),
        ca_pem,
        token_file,
        // The URLs of identity providers that a manifest names may lie inside the network.
        reach: Reach { http: oidc.insecure_allow_http, private: true },
    })
}

fn algorithms(names: &[String]) -> Result<Vec<Algorithm>, ConfigError> {
    if names.is_empty() {
        return Ok(skep_auth::jwt::ALGORITHMS.to_vec());
    }
    names
        .iter()
        .map(|name| {
            skep_auth::jwt::asymmetric(name).ok_or_else(|| ConfigError::Invalid {
                key: "skep.issuer.allowed_algorithms",
                reason: format!("{name:?} is not an algorithm that is ever accepted"),
            })
        })
        .collect()
}
