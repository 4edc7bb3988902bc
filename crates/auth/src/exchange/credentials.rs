//! What the client proves itself with, and how it is renewed while calls go on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use skep_api::secret::Secret;

use super::actor::Actor;
use super::assertion::AssertionKey;
use super::request::Request;
use super::{ClientAuth, ExchangeSettings, ExchangeSetupError};
use crate::client::{ClientConfig, FetchError, GuardedClient};

/// How long a provider may still want the credential before the last.
const LAG: Duration = Duration::from_secs(600);

/// Longest file of a credential, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// One credential, ready for use.
#[derive(Debug)]
pub(super) struct Credential {
    pub(super) proof: Proof,
    pub(super) client: GuardedClient,
    given: ClientAuth,
}

/// What goes into a request.
#[derive(Debug)]
pub(super) enum Proof {
    /// The client id alone, with or without a TLS client certificate under it.
    Nothing,
    /// `Authorization`.
    Basic(HeaderValue),
    /// `client_secret`.
    Secret(Secret),
    /// Signs assertions.
    Key(AssertionKey),
    /// An assertion that somebody else signed.
    Svid(Secret),
}

/// What is in use.
#[derive(Debug, Clone)]
struct Held {
    current: Arc<Credential>,
    actor: Option<Arc<Actor>>,
    previous: Option<(Arc<Credential>, Instant)>,
    ca_pem: Option<Vec<u8>>,
    /// Where the current one was read from. A credential may move without being another.
    file: Option<PathBuf>,
    actor_file: Option<PathBuf>,
}

/// The credentials of an exchanger.
#[derive(Debug)]
pub(super) struct Credentials {
    held: ArcSwap<Held>,
    changing: Mutex<()>,
}

impl Credentials {
    pub(super) fn new(request: &Request, settings: &ExchangeSettings) -> Result<Self, ExchangeSetupError> {
        let client = client(request, settings.ca_pem.as_deref(), &settings.client_auth)?;
        let held = Held {
            current: Arc::new(Credential::new(request, settings.client_auth.clone(), client)?),
            actor: Actor::of(settings)?.map(Arc::new),
            previous: None,
            ca_pem: settings.ca_pem.clone(),
            file: settings.credential_file.clone(),
            actor_file: settings.actor_file.clone(),
        };
        Ok(Self { held: ArcSwap::from_pointee(held), changing: Mutex::new(()) })
    }

    /// The credential in use.
    pub(super) fn current(&self) -> Arc<Credential> {
        Arc::clone(&self.held.load().current)
    }

    /// Who acts for the subject.
    pub(super) fn actor(&self) -> Option<Arc<Actor>> {
        self.held.load().actor.clone()
    }

    /// Takes what `settings` has.
    pub(super) fn renew(
        &self,
        request: &Request,
        settings: &ExchangeSettings,
        now: Instant,
    ) -> Result<(), ExchangeSetupError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.held.load_full();
        let same_ca = held.ca_pem == settings.ca_pem;
        let same_auth = same(&held.current.given, &settings.client_auth);
        let (mut current, mut previous) = (Arc::clone(&held.current), held.previous.clone());
        if !same_ca || !same_auth {
            let certificate = matches!(settings.client_auth, ClientAuth::Tls { .. });
            let client = if same_ca && !certificate {
                held.current.client.clone()
            } else {
                client(request, settings.ca_pem.as_deref(), &settings.client_auth)?
            };
            let renewed = Credential::new(request, settings.client_auth.clone(), client)?;
            if !same_auth {
                previous = Some((current, now));
            }
            current = Arc::new(renewed);
        }
        if !same_ca && let Some((before, since)) = previous {
            // The one before goes to the same endpoint, so it has to trust the same authorities.
            let client = client(request, settings.ca_pem.as_deref(), &before.given)?;
            previous = Some((Arc::new(Credential::new(request, before.given.clone(), client)?), since));
        }
        let actor = Actor::of(settings)?.map(Arc::new);
        let (ca_pem, file) = (settings.ca_pem.clone(), settings.credential_file.clone());
        let actor_file = settings.actor_file.clone();
        self.held.store(Arc::new(Held { current, actor, previous, ca_pem, file, actor_file }));
        Ok(())
    }

    /// Another credential to try after `refused` was: the one that took its place meanwhile, or the one
    /// that now stands in the file. It is not in use before [`adopt`](Self::adopt).
    pub(super) async fn newer(
        &self,
        request: &Request,
        refused: &Arc<Credential>,
    ) -> Option<Arc<Credential>> {
        let held = self.held.load_full();
        if !Arc::ptr_eq(&held.current, refused) {
            return Some(Arc::clone(&held.current));
        }
        let given = refused.given.replaced(content(held.file.as_ref()?).await?)?;
        if same(&given, &refused.given) {
            return None;
        }
        Credential::new(request, given, refused.client.clone()).ok().map(Arc::new)
    }

    /// Takes a credential that [`newer`](Self::newer) found and the endpoint accepted, unless `refused` has
    /// been replaced by another way meanwhile.
    pub(super) fn adopt(&self, credential: &Arc<Credential>, refused: &Arc<Credential>, now: Instant) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.held.load_full();
        if !Arc::ptr_eq(&held.current, refused) {
            return;
        }
        self.held.store(Arc::new(Held {
            current: Arc::clone(credential),
            previous: Some((Arc::clone(&held.current), now)),
            ..(*held).clone()
        }));
    }

    /// Another token of an actor, to try after `refused` may have been: see [`newer`](Self::newer).
    pub(super) async fn newer_actor(&self, refused: &Actor) -> Option<Arc<Actor>> {
        let held = self.held.load_full();
        if let Some(actor) = held.actor.as_ref().filter(|actor| !actor.is(refused)) {
            return Some(Arc::clone(actor));
        }
        let token = content(held.actor_file.as_ref()?).await?;
        let actor = Actor::new(token, refused.kind).ok()?;
        (!actor.is(refused)).then(|| Arc::new(actor))
    }

    /// Takes a token that [`newer_actor`](Self::newer_actor) found and that was not refused, unless
    /// `refused` has been replaced by another way meanwhile.
    pub(super) fn adopt_actor(&self, actor: &Arc<Actor>, refused: &Actor) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.held.load_full();
        if held.actor.as_ref().is_some_and(|in_use| in_use.is(refused)) {
            self.held.store(Arc::new(Held { actor: Some(Arc::clone(actor)), ..(*held).clone() }));
        }
    }

    /// The credential before `refused`, while the provider may not know that it was renewed.
    pub(super) fn previous(&self, refused: &Arc<Credential>, now: Instant) -> Option<Arc<Credential>> {
        let held = self.held.load();
        let (previous, since) = held.previous.as_ref()?;
        let lagging = now.saturating_duration_since(*since) < LAG;
        (lagging && Arc::ptr_eq(&held.current, refused)).then(|| Arc::clone(previous))
    }
}

impl Credential {
    fn new(request: &Request, given: ClientAuth, client: GuardedClient) -> Result<Self, ExchangeSetupError> {
        let filled = |what: &'static str, secret: &Secret| {
            if secret.is_empty() { Err(ExchangeSetupError::CredentialMissing { what }) } else { Ok(()) }
        };
        // A SPIFFE ID names the client by itself, and a public client may have no name at all.
        let anonymous = matches!(given, ClientAuth::Public | ClientAuth::SpiffeJwt(_));
        if request.client_id.is_empty() && !anonymous {
            return Err(ExchangeSetupError::ClientIdMissing);
        }
        let proof = match &given {
            ClientAuth::Public => Proof::Nothing,
            ClientAuth::SecretBasic(secret) => {
                filled("secret", secret)?;
                Proof::Basic(basic(&request.client_id, secret)?)
            }
            ClientAuth::SecretPost(secret) => {
                filled("secret", secret)?;
                Proof::Secret(secret.clone())
            }
            ClientAuth::PrivateKeyJwt { key, key_id } => {
                filled("private key", key)?;
                Proof::Key(AssertionKey::read(key, key_id.clone())?)
            }
            ClientAuth::SpiffeJwt(svid) => {
                filled("JWT-SVID", svid)?;
                Proof::Svid(svid.clone())
            }
            ClientAuth::Tls { certificate, key } => {
                filled("certificate", certificate)?;
                filled("private key", key)?;
                Proof::Nothing
            }
        };
        Ok(Self { proof, client, given })
    }
}

impl ClientAuth {
    /// The same method with the content of a credential file. A certificate is never taken by itself: it
    /// comes with its key.
    fn replaced(&self, text: Secret) -> Option<Self> {
        match self {
            Self::SecretBasic(_) => Some(Self::SecretBasic(text)),
            Self::SecretPost(_) => Some(Self::SecretPost(text)),
            Self::PrivateKeyJwt { key_id, .. } => {
                Some(Self::PrivateKeyJwt { key: text, key_id: key_id.clone() })
            }
            Self::SpiffeJwt(_) => Some(Self::SpiffeJwt(text)),
            Self::Public | Self::Tls { .. } => None,
        }
    }
}

/// What stands in a file. One that is being replaced, or that holds no secret, says nothing; a pipe is not
/// waited for.
async fn content(path: &Path) -> Option<Secret> {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return None;
    }
    let text = Secret::new(tokio::fs::read_to_string(path).await.ok()?);
    let text = text.expose();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Some(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

fn client(
    request: &Request,
    ca_pem: Option<&[u8]>,
    auth: &ClientAuth,
) -> Result<GuardedClient, ExchangeSetupError> {
    let mut config = ClientConfig::new(request.egress.clone());
    config.reach = request.reach;
    config.timeout = request.timeout;
    config.ca_pem = ca_pem.map(<[u8]>::to_vec);
    if let ClientAuth::Tls { certificate, key } = auth {
        // An empty file is told apart from a wrong one by the credential itself.
        if !certificate.is_empty() && !key.is_empty() {
            config.identity_pem = Some(Secret::new(format!("{}\n{}", certificate.expose(), key.expose())));
        }
    }
    let client = GuardedClient::new(config).map_err(|error| match error {
        FetchError::Identity(_) => {
            ExchangeSetupError::Key { reason: "certificate and private key must be PEM and belong together" }
        }
        error => ExchangeSetupError::Endpoint(error),
    })?;
    client.permits(&request.token_url).map_err(ExchangeSetupError::Endpoint)?;
    Ok(client)
}

/// RFC 6749 §2.3.1: both are form-encoded before they are joined.
fn basic(client_id: &str, secret: &Secret) -> Result<HeaderValue, ExchangeSetupError> {
    let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = Secret::new(format!("{}:{}", encode(client_id), encode(secret.expose())));
    let value = Secret::new(format!("Basic {}", STANDARD.encode(pair.expose())));
    let mut value = HeaderValue::from_str(value.expose())
        .map_err(|_| ExchangeSetupError::CredentialCharacters { what: "secret" })?;
    value.set_sensitive(true);
    Ok(value)
}

fn same(one: &ClientAuth, other: &ClientAuth) -> bool {
    let equal = |one: &Secret, other: &Secret| one.expose() == other.expose();
    match (one, other) {
        (ClientAuth::Public, ClientAuth::Public) => true,
        (ClientAuth::SecretBasic(one), ClientAuth::SecretBasic(other))
        | (ClientAuth::SecretPost(one), ClientAuth::SecretPost(other))
        | (ClientAuth::SpiffeJwt(one), ClientAuth::SpiffeJwt(other)) => equal(one, other),
        (
            ClientAuth::PrivateKeyJwt { key, key_id },
            ClientAuth::PrivateKeyJwt { key: other_key, key_id: other_id },
        ) => equal(key, other_key) && key_id == other_id,
        (
            ClientAuth::Tls { certificate, key },
            ClientAuth::Tls { certificate: other_certificate, key: other_key },
        ) => equal(certificate, other_certificate) && equal(key, other_key),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_secret_are_encoded_before_they_are_joined() {
        let value = basic("a:b c", &Secret::new("p+s %ä")).unwrap();
        assert!(value.is_sensitive());
        let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(STANDARD.decode(encoded).unwrap(), b"a%3Ab+c:p%2Bs+%25%C3%A4");
    }
}
