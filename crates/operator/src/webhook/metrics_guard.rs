//! Lets only those see metrics whom the API server knows and allows to: a TokenReview says who sends a bearer
//! token, a SubjectAccessReview whether that user may `get` the path `/metrics`.
//!
//! A ClusterRole that grants it: `rules: [{nonResourceURLs: [/metrics], verbs: [get]}]`.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::feed::chain;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};
use sha2::{Digest as _, Sha256};
use skep_api::secret::Secret;
use skep_auth::flight::{FlightCache, Keep};
use skep_runtime::clock::SharedClock;
use skep_runtime::http::{Ends, Handler, ResponseBody, full};
use thiserror::Error;

/// The path that a user must have the right to get.
pub const PATH: &str = "/metrics";

/// How long a verdict is kept. A token that was withdrawn still works for as long.
const KEPT: Duration = Duration::from_secs(30);
/// Verdicts that are kept.
const CAPACITY: usize = 1024;
/// How long the API server may take for both questions.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer tokens are none.
const LONGEST_TOKEN: usize = 16 * 1024;

/// Why somebody gets nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// No token was sent.
    #[error("send a bearer token of a user or ServiceAccount that may get the path {PATH}")]
    NoToken,
    /// The API server does not know the token.
    #[error("the API server does not accept this bearer token")]
    UnknownToken,
    /// A user without the right.
    #[error(
        "{user} may not get the path {PATH}; a ClusterRole with nonResourceURLs [{PATH}] and verbs [get], bound to that user, grants it"
    )]
    Forbidden {
        /// Name of the user.
        user: String,
    },
    /// Nobody could say.
    #[error("the API server could not be asked who this is and what he may do; try again")]
    Unavailable,
}

/// Answers with another handler's answer once the caller has shown that he may see it.
pub struct MetricsGuard<H> {
    inner: H,
    client: Client,
    verdicts: Arc<FlightCache<(), Refused>>,
}

impl<H> MetricsGuard<H> {
    /// A guard in front of `inner`. `client` asks; it needs the rights to create `tokenreviews` and
    /// `subjectaccessreviews`.
    pub fn new(inner: H, client: Client, clock: SharedClock) -> Self {
        Self { inner, client, verdicts: FlightCache::new(CAPACITY, clock) }
    }

    /// Whether the sender of these headers may see metrics.
    ///
    /// # Errors
    /// When not, or when nobody could say.
    pub async fn check(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let token = bearer(headers).ok_or(Refused::NoToken)?;
        let key = Sha256::digest(token.expose().as_bytes()).into();
        let client = self.client.clone();
        let asked = move || async move {
            let verdict = tokio::time::timeout(PATIENCE, ask(client, token)).await.unwrap_or_else(|_| {
                tracing::warn!("the API server did not say in time who may see metrics");
                Err(Refused::Unavailable)
            });
            let keep = if verdict == Err(Refused::Unavailable) { Keep::No } else { Keep::For(KEPT) };
            (verdict, keep)
        };
        self.verdicts.get(key, Refused::Unavailable, asked).await.outcome
    }
}

impl<H: Handler> Handler for MetricsGuard<H> {
    async fn handle(&self, request: Request<Incoming>, ends: Ends) -> Response<ResponseBody> {
        match self.check(request.headers()).await {
            Ok(()) => self.inner.handle(request, ends).await,
            Err(refused) => answer(&refused),
        }
    }
}

impl<H> std::fmt::Debug for MetricsGuard<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricsGuard").field("verdicts", &self.verdicts.len()).finish_non_exhaustive()
    }
}

/// The one bearer token of a request (RFC 6750 §2.1).
fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let usable = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= LONGEST_TOKEN;
    usable.then(|| Secret::new(token))
}

/// Asks the API server both questions.
async fn ask(client: Client, token: Secret) -> Result<(), Refused> {
    let user = who(&client, &token).await?.ok_or(Refused::UnknownToken)?;
    let name = user.username.clone().unwrap_or_default();
    let spec = SubjectAccessReviewSpec {
        user: user.username,
        uid: user.uid,
        groups: user.groups,
        extra: user.extra,
        non_resource_attributes: Some(NonResourceAttributes {
            path: Some(PATH.to_owned()),
            verb: Some("get".to_owned()),
        }),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let answered = Api::<SubjectAccessReview>::all(client).create(&PostParams::default(), &review).await;
    let allowed = answered.map_err(|error| unavailable("subjectaccessreviews", &error))?;
    let allowed = allowed.status.is_some_and(|status| status.allowed && status.denied != Some(true));
    if allowed { Ok(()) } else { Err(Refused::Forbidden { user: name }) }
}

/// Whose token it is; `None` when nobody's.
async fn who(client: &Client, token: &Secret) -> Result<Option<UserInfo>, Refused> {
    let spec = TokenReviewSpec { token: token.expose().to_owned(), ..TokenReviewSpec::default() };
    let review = TokenReview { spec, ..TokenReview::default() };
    let answered = Api::<TokenReview>::all(client.clone()).create(&PostParams::default(), &review).await;
    let status = answered.map_err(|error| unavailable("tokenreviews", &error))?.status.unwrap_or_default();
    let known = status.authenticated == Some(true);
    Ok(status.user.filter(|user| known && user.username.as_ref().is_some_and(|name| !name.is_empty())))
}

fn unavailable(resource: &'static str, error: &kube::Error) -> Refused {
    let error = chain(error);
    tracing::warn!(resource, error, "the API server can't say who may see metrics");
    Refused::Unavailable
}

fn answer(refused: &Refused) -> Response<ResponseBody> {
    let status = match refused {
        Refused::NoToken | Refused::UnknownToken => StatusCode::UNAUTHORIZED,
        Refused::Forbidden { .. } => StatusCode::FORBIDDEN,
        Refused::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = Response::new(full(format!("{refused}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let challenge = match refused {
        Refused::NoToken => Some("Bearer"),
        Refused::UnknownToken => Some("Bearer error=\"invalid_token\""),
        Refused::Forbidden { .. } | Refused::Unavailable => None,
    };
    if let Some(challenge) = challenge {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_bearer_token_counts() {
        let long = format!("Bearer {}", "x".repeat(LONGEST_TOKEN + 1));
        for (values, token) in [
            (vec!["Bearer abc"], Some("abc")),
            (vec!["bearer  abc "], Some("abc")),
            (vec![], None),
            (vec!["Bearer"], None),
            (vec!["Bearer "], None),
            (vec!["Basic abc"], None),
            (vec!["Bearer abc", "Bearer def"], None),
            (vec![long.as_str()], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            let found = bearer(&headers);
            assert_eq!(found.as_ref().map(Secret::expose), token, "{values:?}");
        }
    }
}
