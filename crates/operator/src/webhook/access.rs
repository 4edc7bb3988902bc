//! Whether the user who asks for a change could do himself what his manifest asks for: SubjectAccessReviews
//! (`authorization.k8s.io/v1`).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};
use sha2::{Digest as _, Sha256};
use skep_runtime::clock::SharedClock;
use thiserror::Error;
use tokio::sync::Semaphore;

use super::memory::Memory;
use super::metrics::WebhookMetrics;
use super::review::User;
use super::world::CALL_TIMEOUT;

/// For how long a yes is believed.
const ALLOWED_FOR: Duration = Duration::from_secs(10);
/// The same for a no: short, since somebody may be about to grant the right.
const DENIED_FOR: Duration = Duration::from_secs(1);
/// Answers that are remembered.
const LIMIT: usize = 4096;

/// Something that a user may or may not do in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Act {
    pub verb: &'static str,
    /// Of the core group.
    pub resource: &'static str,
    pub namespace: String,
    /// None: any.
    pub name: Option<String>,
}

impl Act {
    /// Run pods.
    pub fn create_pods(namespace: &str) -> Self {
        Self { verb: "create", resource: "pods", namespace: namespace.to_owned(), name: None }
    }

    /// Read one Secret.
    pub fn get_secret(namespace: &str, name: &str) -> Self {
        Self {
            verb: "get",
            resource: "secrets",
            namespace: namespace.to_owned(),
            name: Some(name.to_owned()),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if let Some(name) = &self.name {
            write!(f, " `{name}`")?;
        }
        write!(f, " in the namespace `{}`", self.namespace)
    }
}

/// Why nobody knows whether a user may do something. Clones are the same failure, of those who shared a question.
#[derive(Debug, Clone, Error)]
pub enum AccessError {
    #[error("the API server could not be asked whether the user may {act}")]
    Ask {
        /// What was asked about.
        act: Act,
        /// What the API server said.
        source: Arc<kube::Error>,
    },
    #[error(
        "the API server could not be asked whether the user may {act}: it took longer than {} seconds",
        CALL_TIMEOUT.as_secs()
    )]
    Slow {
        /// What was asked about.
        act: Act,
    },
}

type Asked = Shared<BoxFuture<'static, Result<bool, AccessError>>>;

#[derive(Clone)]
struct Entry {
    asked: Asked,
    at: Instant,
}

/// Asks, and remembers answers for some seconds. Those who ask the same at the same time share one call.
pub struct Access {
    client: Client,
    clock: SharedClock,
    metrics: WebhookMetrics,
    open: Arc<Semaphore>,
    answers: Mutex<Memory<[u8; 32], Entry>>,
}

impl Access {
    /// Asks the API server of `client`, no more at a time than `open` lets through.
    pub fn new(client: Client, clock: SharedClock, metrics: WebhookMetrics, open: Arc<Semaphore>) -> Self {
        Self { client, clock, metrics, open, answers: Mutex::new(Memory::new(LIMIT)) }
    }

    /// Whether the user may do it.
    ///
    /// # Errors
    /// When the API server can't be asked. That is not remembered.
    pub async fn may(&self, user: &User, act: &Act) -> Result<bool, AccessError> {
        let key = key(user, act);
        let (asked, first) = {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            match answers.get(&key).filter(|entry| self.is_good(entry)) {
                Some(entry) => (entry.asked, false),
                None => {
                    let open = Arc::clone(&self.open);
                    let asked = ask(self.client.clone(), open, user.clone(), act.clone()).boxed().shared();
                    answers.put(key, Entry { asked: asked.clone(), at: self.clock.instant() });
                    (asked, true)
                }
            }
        };
        let answer = asked.await;
        self.metrics.access_review(match (&answer, first) {
            (Err(_), _) => "failed",
            (Ok(_), false) => "remembered",
            (Ok(true), true) => "allowed",
            (Ok(false), true) => "denied",
        });
        answer
    }

    /// True while an answer is awaited or can be believed.
    fn is_good(&self, entry: &Entry) -> bool {
        let age = self.clock.since(entry.at);
        match entry.asked.peek() {
            // Whoever asked first may be gone; then those who come now go on with the call.
            None => age < CALL_TIMEOUT,
            Some(Ok(true)) => age < ALLOWED_FOR,
            Some(Ok(false)) => age < DENIED_FOR,
            Some(Err(_)) => false,
        }
    }
}

/// One user and one act. Everything that may decide is in it.
fn key(user: &User, act: &Act) -> [u8; 32] {
    let about = (user, act.verb, act.resource, &act.namespace, &act.name);
    Sha256::digest(serde_json::to_vec(&about).unwrap_or_default()).into()
}

async fn ask(client: Client, open: Arc<Semaphore>, user: User, act: Act) -> Result<bool, AccessError> {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: some(user.username),
            uid: some(user.uid),
            groups: Some(user.groups).filter(|groups| !groups.is_empty()),
            extra: Some(user.extra).filter(|extra| !extra.is_empty()),
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(act.namespace.clone()),
                verb: Some(act.verb.to_owned()),
                version: Some("v1".to_owned()),
                resource: Some(act.resource.to_owned()),
                name: act.name.clone(),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(client);
    let call = async {
        let _turn = open.acquire().await;
        api.create(&PostParams::default(), &review).await
    };
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer.status.is_some_and(|status| status.allowed)),
        Ok(Err(source)) => Err(AccessError::Ask { act, source: Arc::new(source) }),
        Err(_) => Err(AccessError::Slow { act }),
    }
}
