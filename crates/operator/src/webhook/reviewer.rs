//! Answers reviews.

use std::sync::{Arc, PoisonError, RwLock};

use skep_runtime::clock::SharedClock;
use tokio::sync::Semaphore;

use super::access::Access;
use super::hook::Hook;
use super::metrics::WebhookMetrics;
use super::reload::Policies;
use super::review::{Answer, Operation, Request};
use super::settings::{AccessReviews, InjectionPoint, WebhookSettings};
use super::world::{ALL_AT_A_TIME, Facts, WorldError, missing};
use super::{mutate, pods, validate};
use crate::cluster::Cluster;
use crate::cluster::feed::chain;
use crate::plan;

/// Answers reviews, from what [`know`](Self::know) was told last.
pub struct Reviewer {
    pub(super) access: Access,
    pub(super) access_reviews: AccessReviews,
    pub(super) injection_point: InjectionPoint,
    pub(super) policies: Policies,
    pub(super) metrics: WebhookMetrics,
    plan: plan::Settings,
    clock: SharedClock,
    /// Questions to the API server that are open.
    open: Arc<Semaphore>,
    facts: RwLock<Option<Arc<Facts>>>,
}

impl Reviewer {
    /// Knows nothing yet. `client` is for SubjectAccessReviews.
    pub fn new(
        client: kube::Client,
        settings: &WebhookSettings,
        policies: Policies,
        metrics: WebhookMetrics,
        clock: SharedClock,
    ) -> Self {
        let plan = plan::Settings { missing: missing(settings.strict_references), ..settings.plan.clone() };
        let open = Arc::new(Semaphore::new(ALL_AT_A_TIME));
        Self {
            access: Access::new(client, Arc::clone(&clock), metrics.clone(), Arc::clone(&open)),
            access_reviews: settings.access_reviews,
            injection_point: settings.injection_point,
            policies,
            metrics,
            plan,
            clock,
            open,
            facts: RwLock::default(),
        }
    }

    /// Answers from these caches from now on.
    pub fn know(&self, cluster: Arc<Cluster>) {
        let facts = Arc::new(Facts::new(cluster, Arc::clone(&self.clock), Arc::clone(&self.open)));
        *self.facts.write().unwrap_or_else(PoisonError::into_inner) = Some(facts);
    }

    /// Answers one review.
    pub async fn review(&self, hook: Hook, request: Request) -> Answer {
        let changes = matches!(request.operation, Operation::Create | Operation::Update);
        if !changes || !request.sub_resource.is_empty() {
            return Answer::allowed();
        }
        if !request.object.is_object() {
            return Answer::failed(400, "the review has no object");
        }
        let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(facts) = facts else {
            return match hook {
                Hook::Validate(kind) if validate::is_lenient(kind, &request, &self.policies.get()) => {
                    unchecked(STARTING)
                }
                Hook::MutateServer | Hook::MutatePod if mutate::is_terminating(&request.object) => {
                    Answer::allowed()
                }
                Hook::MutateServer | Hook::MutatePod if mutate::changes_nothing(&request) => {
                    unchanged(STARTING)
                }
                _ => Answer::failed(503, format!("{STARTING}; try again")),
            };
        };
        match hook {
            Hook::MutateServer => mutate::server(self, &facts, request).await,
            Hook::MutatePod => pods::pod(self, &facts, request).await,
            Hook::Validate(kind) => validate::object(self, &facts, kind, request).await,
        }
    }

    /// Settings of the planner. What the webhook itself injects needs no label on the namespace.
    pub(super) fn plan_settings(&self) -> plan::Settings {
        let policy = self.policies.get();
        plan::Settings { workload_api_folder: policy.config.volumes.socket.path.clone(), ..self.plan.clone() }
    }

    pub(super) fn clock(&self) -> &SharedClock {
        &self.clock
    }
}

const STARTING: &str = "the webhook is starting and does not know the cluster yet";

/// The answer about an object that may not be denied and could not be judged.
pub(super) fn unchecked(why: &str) -> Answer {
    Answer { warnings: vec![format!("the object was not checked: {why}")], ..Answer::default() }
}

/// The answer about an object that may not be denied and whose sidecars could not be decided about.
pub(super) fn unchanged(why: &str) -> Answer {
    Answer { warnings: vec![format!("sidecars were left as they are: {why}")], ..Answer::default() }
}

/// The answer when something could not be looked up.
pub(super) fn unknown(error: &WorldError) -> Answer {
    let message = chain(error);
    tracing::warn!(error = message, "a review could not be decided");
    Answer::failed(500, format!("{message}; nothing was decided, try again"))
}
