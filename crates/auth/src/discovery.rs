//! Finding an issuer's keys: OpenID Connect Discovery 1.0, then RFC 8414.

use serde::Deserialize;
use skep_api::secret::Secret;
use url::Url;

use crate::client::{FetchError, GuardedClient, redacted};
use crate::names::Issuer;

/// Characters of a foreign text that an error shows.
const MOST_SHOWN: usize = 256;

/// What is used of a discovery document.
#[derive(Debug, Clone, Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: Option<String>,
}

/// Why discovery failed.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    #[error("the issuer's metadata cannot be fetched")]
    Fetch(#[source] FetchError),
    #[error("the metadata at {url} is not a discovery document")]
    Document { url: String },
    #[error("the metadata at {url} is that of {found:?}, not of {expected:?}")]
    OtherIssuer { url: String, found: String, expected: String },
    #[error("the metadata at {url} has no usable jwks_uri")]
    NoKeys { url: String },
}

/// Finds the URL of the issuer's keys, in the document at `place` where that is given. The document must
/// name the issuer that was asked for (OpenID Connect Discovery §4.3, RFC 8414 §3.3), wherever it lies.
/// `token` is shown to the server that is asked: the API server of Kubernetes wants one for this too.
///
/// # Errors
/// When no metadata can be had, or it is somebody else's.
pub async fn jwks_url(
    client: &GuardedClient,
    issuer: &Issuer,
    place: Option<&Url>,
    token: Option<&Secret>,
) -> Result<Url, DiscoveryError> {
    if let Some(place) = place {
        return document(client, issuer, place.as_str(), token).await;
    }
    let oidc = issuer.discovery_url();
    match document(client, issuer, &oidc, token).await {
        Err(DiscoveryError::Fetch(FetchError::Status { status: 404, .. })) => {}
        found => return found,
    }
    match issuer.oauth_metadata_url() {
        Some(url) => document(client, issuer, &url, token).await,
        None => Err(DiscoveryError::Document { url: oidc }),
    }
}

async fn document(
    client: &GuardedClient,
    issuer: &Issuer,
    address: &str,
    token: Option<&Secret>,
) -> Result<Url, DiscoveryError> {
    let url = Url::parse(address).map_err(|_| DiscoveryError::Document { url: "no URL".to_owned() })?;
    let body = client.get_json(&url, token).await.map_err(DiscoveryError::Fetch)?;
    let not_a_document = || DiscoveryError::Document { url: redacted(&url) };
    let text = skep_api::json::check(&body, 32).map_err(|_| not_a_document())?;
    let document: Document = serde_json::from_str(text).map_err(|_| not_a_document())?;
    if !issuer.is(&document.issuer) {
        return Err(DiscoveryError::OtherIssuer {
            url: redacted(&url),
            found: document.issuer.chars().take(MOST_SHOWN).collect(),
            expected: issuer.as_str().to_owned(),
        });
    }
    document
        .jwks_uri
        .as_deref()
        .and_then(|uri| Url::parse(uri).ok())
        .ok_or_else(|| DiscoveryError::NoKeys { url: redacted(&url) })
}
