//! What is asked of the token endpoint (RFC 8693 §2.1, RFC 6749 §4.4.2).

use std::mem::Discriminant;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use skep_api::address::{Egress, Reach};
use url::Url;
use url::form_urlencoded::Serializer;

use super::actor::Actor;
use super::assertion::{Assertion, JWT_BEARER, JWT_SPIFFE};
use super::credentials::{Credential, Proof};
use super::{ClientAuth, ExchangeSettings, ExchangerMode, Grant, TokenType};

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// Everything about the settings but the credentials: two that are equal ask for the same thing, so what
/// was got by one is good for the other.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) token_url: Url,
    pub(super) client_id: String,
    pub(super) audience: String,
    pub(super) scopes: Vec<String>,
    pub(super) reach: Reach,
    pub(super) egress: Egress,
    pub(super) ttl_cap: Option<Duration>,
    pub(super) negative_ttl: Duration,
    pub(super) timeout: Duration,
    resource: String,
    method: Discriminant<ClientAuth>,
    /// None: client_credentials.
    subject_type: Option<TokenType>,
    actor_type: Option<TokenType>,
}

impl Request {
    pub(super) fn of(settings: &ExchangeSettings) -> Self {
        let (subject_type, actor_type) = match &settings.grant {
            Grant::TokenExchange { subject_type, actor } => {
                (Some(*subject_type), actor.as_ref().map(|(_, kind)| *kind))
            }
            Grant::ClientCredentials => (None, None),
        };
        Self {
            token_url: settings.token_url.clone(),
            client_id: settings.client_id.clone(),
            audience: settings.audience.clone(),
            scopes: settings.scopes.clone(),
            reach: settings.reach,
            egress: settings.egress.clone(),
            ttl_cap: settings.ttl_cap,
            negative_ttl: settings.negative_ttl,
            timeout: settings.timeout,
            resource: settings.resource.clone(),
            method: std::mem::discriminant(&settings.client_auth),
            subject_type,
            actor_type,
        }
    }

    pub(super) fn mode(&self) -> ExchangerMode {
        if self.subject_type.is_some() { ExchangerMode::Caller } else { ExchangerMode::Service }
    }

    /// Headers and body for one call. `None` when an assertion can't be signed.
    pub(super) fn render(
        &self,
        credential: &Credential,
        actor: Option<&Actor>,
        subject: &str,
        now: i64,
        id: impl FnOnce() -> String,
    ) -> Option<(HeaderMap, Vec<u8>)> {
        let mut form = Serializer::new(String::new());
        match self.subject_type {
            Some(subject_type) => {
                form.append_pair("grant_type", TOKEN_EXCHANGE)
                    .append_pair("subject_token", subject)
                    .append_pair("subject_token_type", subject_type.urn())
                    .append_pair("requested_token_type", TokenType::AccessToken.urn());
                if let Some(actor) = actor {
                    form.append_pair("actor_token", actor.token.expose())
                        .append_pair("actor_token_type", actor.kind.urn());
                }
            }
            None => {
                form.append_pair("grant_type", "client_credentials");
            }
        }
        let mut optional = |name: &str, value: &str| {
            if !value.is_empty() {
                form.append_pair(name, value);
            }
        };
        optional("audience", &self.audience);
        optional("scope", &self.scopes.join(" "));
        optional("resource", &self.resource);

        let mut headers = HeaderMap::with_capacity(3);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if !matches!(credential.proof, Proof::Basic(_)) {
            optional("client_id", &self.client_id);
        }
        match &credential.proof {
            Proof::Nothing => {}
            Proof::Basic(value) => {
                headers.insert(AUTHORIZATION, value.clone());
            }
            Proof::Secret(secret) => optional("client_secret", secret.expose()),
            Proof::Key(key) => {
                let assertion = key.sign(Assertion {
                    client_id: &self.client_id,
                    audience: self.token_url.as_str(),
                    id: id(),
                    now,
                })?;
                optional("client_assertion_type", JWT_BEARER);
                optional("client_assertion", assertion.expose());
            }
            Proof::Svid(svid) => {
                optional("client_assertion_type", JWT_SPIFFE);
                optional("client_assertion", svid.expose());
            }
        }
        Some((headers, form.finish().into_bytes()))
    }
}

impl TokenType {
    /// The identifier of RFC 8693 §3.
    fn urn(self) -> &'static str {
        match self {
            Self::AccessToken => "urn:ietf:params:oauth:token-type:access_token",
            Self::IdToken => "urn:ietf:params:oauth:token-type:id_token",
            Self::Jwt => "urn:ietf:params:oauth:token-type:jwt",
        }
    }
}
