//! Validation: what the planner says about an object, and whether its author may ask for what it asks for.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{StreamExt as _, iter};
use serde_json::Value;
use skep_api::crd::{Kind, Object, defaults};
use skep_api::problem::{Problem, Severity};

use super::access::{AccessError, Act};
use super::lines::one_line;
use super::mutate::is_terminating;
use super::review::{Answer, Operation, Request, User, Verdict};
use super::reviewer::{Reviewer, unchecked, unknown};
use super::settings::AccessReviews;
use super::world::{AT_A_TIME, Facts, Freshness, WorldError};
use crate::cluster::feed::chain;
use crate::plan::{self, PREREQUISITES_MISSING, Planned, Target, World};
use crate::sidecars::{self, Policy};

/// Reason of problems with what the author may do.
const NOT_ALLOWED: &str = "NotAllowed";
/// Reason of a problem with the number of things that an object refers to.
const TOO_MANY: &str = "TooManyReferences";
/// In place of a message about a Secret that is not the user's to know.
const UNTOLD: &str = "This is refused for a reason that has to do with a Secret which you may not read.";
/// Secrets that one object may name: each is a question to the API server.
const MAX_SECRETS: usize = 256;
/// Things that one object may refer to: each may be a look.
const MAX_REFERENCES: usize = 512;

/// Judges an object. One that is being deleted, or an update that leaves the spec as it is, is never denied.
pub(super) async fn object(reviewer: &Reviewer, facts: &Facts, kind: Kind, mut request: Request) -> Answer {
    let policy = reviewer.policies.get();
    let lenient = is_lenient(kind, &request, &policy);
    // Only what users wrote: what the webhook injects is nobody's demand.
    let written = by_author(kind, &request.object, &request.namespace, &policy);
    settle_metadata(&mut request);
    let object = match Object::parse(&request.object) {
        Ok(object) if object.kind == kind => object,
        Ok(object) => {
            return Answer::failed(400, format!("the object is a {} and no {kind}", object.kind));
        }
        Err(error) => return Answer::failed(400, format!("the object is no {kind}: {error}")),
    };
    let references = plan::references(&object).len();
    if references > MAX_REFERENCES {
        let message = format!(
            "This refers to {references} objects, and at most {MAX_REFERENCES} are looked up. Refer to fewer."
        );
        return answer(vec![Problem::error("spec", TOO_MANY, message)], lenient);
    }
    let judged = judge(reviewer, facts, &object, request.operation, lenient);
    let wanted = wanted(&object, &written);
    let asked =
        async { if lenient { Vec::new() } else { demands(reviewer, &request.user, &object, wanted).await } };
    let (judged, mut demands) = futures_util::future::join(judged, asked).await;
    let (planned, world) = match judged {
        Ok(judged) => judged,
        Err(error) if lenient => return unchecked(&chain(&error)),
        Err(error) => return unknown(&error),
    };
    if !lenient {
        let further = named_in_config_maps(&object, &world, &demands);
        demands.extend(asked_for(reviewer, &request.user, further).await);
    }
    let mut problems = without_secrets(reviewer, &request.user, &object, planned.problems, &demands).await;
    for demand in demands {
        match demand.answer {
            Ok(true) => {}
            Ok(false) => problems.push(demand.refused(&request.user, reviewer.access_reviews)),
            Err(error) if reviewer.access_reviews == AccessReviews::Warn => {
                problems.push(Problem::warning(demand.path, NOT_ALLOWED, chain(&error)));
            }
            Err(error) => {
                let message = format!("{}; nothing was decided, try again", chain(&error));
                tracing::warn!(error = message, "a review could not be decided");
                return Answer::failed(500, message);
            }
        }
    }
    answer(problems, lenient)
}

fn answer(problems: Vec<Problem>, lenient: bool) -> Answer {
    let (errors, warnings): (Vec<Problem>, Vec<Problem>) =
        problems.into_iter().partition(|problem| problem.is_error() && !lenient);
    let warnings = warnings.iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect();
    let verdict = if errors.is_empty() { Verdict::Allowed } else { Verdict::Denied(errors) };
    Answer { verdict, warnings, audit: BTreeMap::new() }
}

/// Plans the object from the caches; and when that is going to deny it, again from what there is now, since what
/// it refers to may have been mended a moment ago.
async fn judge(
    reviewer: &Reviewer,
    facts: &Facts,
    object: &Object,
    operation: Operation,
    lenient: bool,
) -> Result<(Planned, World), WorldError> {
    let settings = reviewer.plan_settings();
    let world = facts.world(object, operation, &settings, Freshness::Cached).await?;
    let planned = plan::plan_object(object, &world);
    let surrounded =
        planned.problems.iter().any(|problem| problem.is_error() && !object.findings.contains(problem));
    if lenient || !surrounded {
        return Ok((planned, world));
    }
    match facts.world(object, operation, &settings, Freshness::Now).await {
        Ok(now) => {
            let planned = plan::plan_object(object, &now);
            Ok((planned, now))
        }
        Err(error) => {
            tracing::debug!(error = chain(&error), "an object is denied from what was cached");
            Ok((planned, world))
        }
    }
}

/// The namespace is the request's, whatever the object says. A name that is still to be generated is not missing.
fn settle_metadata(request: &mut Request) {
    let Some(metadata) = request.object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if !request.namespace.is_empty() {
        metadata.insert("namespace".to_owned(), request.namespace.as_str().into());
    }
    let has_name = metadata.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    if !has_name && let Some(prefix) = metadata.get("generateName").and_then(Value::as_str) {
        let name = format!("{prefix}xxxxx");
        metadata.insert("name".to_owned(), name.into());
    }
}

/// True for an update of an object that is being deleted, and for one that leaves the spec as it is, but for
/// defaults and for what the webhook itself brings up to date.
pub(super) fn is_lenient(kind: Kind, request: &Request, policy: &Policy) -> bool {
    let (new, old) = (&request.object, &request.old_object);
    if request.operation != Operation::Update {
        return false;
    }
    if is_terminating(new) || new.get("spec") == old.get("spec") {
        return true;
    }
    // What is new is believed to be the webhook's only as far as it is; an older one may have put in the other.
    let was = if kind == Kind::MCPServer { sidecars::restore_server(old).result } else { old.clone() };
    filled_in(kind, by_author(kind, new, &request.namespace, policy)).get("spec")
        == filled_in(kind, was).get("spec")
}

/// An object without what was injected.
fn by_author(kind: Kind, object: &Value, namespace: &str, policy: &Policy) -> Value {
    if kind == Kind::MCPServer {
        sidecars::written_by_author(object, namespace, policy)
    } else {
        object.clone()
    }
}

/// With the defaults.
fn filled_in(kind: Kind, mut object: Value) -> Value {
    if let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) {
        defaults::fill_in(kind, spec);
    }
    object
}

/// Something that an object asks for, and where.
struct Wanted {
    path: String,
    act: Act,
}

/// The same, with what the API server says about it.
struct Demand {
    path: String,
    act: Act,
    answer: Result<bool, AccessError>,
}

/// What an object asks for that its author has to be allowed to do.
fn wanted(object: &Object, written: &Value) -> Vec<Wanted> {
    let namespace = object.metadata.namespace.as_str();
    let mut wanted = Vec::new();
    if object.kind.is_workload() {
        wanted.push(Wanted { path: "spec".to_owned(), act: Act::create_pods(namespace) });
    }
    let mut secrets = plan::secrets_named(written);
    if object.kind == Kind::MCPServer {
        secrets.extend(sidecars::secrets_reached(written));
    }
    let secrets = secrets.into_iter();
    wanted.extend(secrets.map(|(path, name)| Wanted { path, act: Act::get_secret(namespace, &name) }));
    wanted
}

/// Asks about everything that an object wants. One that names too many Secrets is refused without asking.
async fn demands(reviewer: &Reviewer, user: &User, object: &Object, wanted: Vec<Wanted>) -> Vec<Demand> {
    let names = wanted.iter().map(|one| &one.act).collect::<std::collections::BTreeSet<_>>().len();
    if names > MAX_SECRETS {
        let act = Act::get_secret(&object.metadata.namespace, "*");
        return vec![Demand { path: "spec".to_owned(), act, answer: Ok(false) }];
    }
    asked_for(reviewer, user, wanted).await
}

async fn asked_for(reviewer: &Reviewer, user: &User, wanted: Vec<Wanted>) -> Vec<Demand> {
    iter(wanted)
        .map(|Wanted { path, act }| async move {
            let answer = reviewer.access.may(user, &act).await;
            Demand { path, act, answer }
        })
        .buffered(AT_A_TIME)
        .collect()
        .await
}

/// Problems without what they tell of a Secret which the user may not read: whether it is there, and which keys it
/// has. A warning goes; an error denies as before, and says less: its message may repeat what the author wrote,
/// and must not become none by it. What the sidecars need is told to everybody: it is in Secrets of fixed names,
/// and no secret.
async fn without_secrets(
    reviewer: &Reviewer,
    user: &User,
    object: &Object,
    problems: Vec<Problem>,
    demands: &[Demand],
) -> Vec<Problem> {
    let tells = |problem: &Problem| {
        if problem.reason == PREREQUISITES_MISSING { Vec::new() } else { told(&problem.message) }
    };
    let named: BTreeSet<String> = problems.iter().flat_map(tells).collect();
    let act = |name: &str| Act::get_secret(&object.metadata.namespace, name);
    let answered = |act: &Act, demands: &[Demand]| -> Option<bool> {
        let demand = demands.iter().find(|demand| demand.act == *act)?;
        Some(matches!(demand.answer, Ok(true)))
    };
    let open: Vec<Wanted> = named
        .iter()
        .map(|name| Wanted { path: String::new(), act: act(name) })
        .filter(|wanted| answered(&wanted.act, demands).is_none())
        .take(MAX_SECRETS)
        .collect();
    let further = asked_for(reviewer, user, open).await;
    let may = |name: &String| {
        let act = act(name);
        answered(&act, demands).or_else(|| answered(&act, &further)).unwrap_or(false)
    };
    problems
        .into_iter()
        .filter_map(|mut problem| {
            if tells(&problem).iter().all(may) {
                return Some(problem);
            }
            if !problem.is_error() {
                return None;
            }
            UNTOLD.clone_into(&mut problem.message);
            Some(problem)
        })
        .collect()
}

/// Names of the Secrets that a message of the planner's tells of.
fn told(message: &str) -> Vec<String> {
    let after = message.split("Secret `").skip(1);
    after.filter_map(|rest| Some(rest.split_once('`')?.0.to_owned())).collect()
}

/// Secrets that only the content of ConfigMaps names.
fn named_in_config_maps(object: &Object, world: &World, asked: &[Demand]) -> Vec<Wanted> {
    let namespace = object.metadata.namespace.as_str();
    plan::references_in(object, &world.config_maps)
        .into_iter()
        .filter(|reference| reference.target == Target::Secret)
        .map(|reference| Act::get_secret(namespace, &reference.name))
        .filter(|act| asked.iter().all(|demand| demand.act != *act))
        .map(|act| Wanted { path: "spec.oidcConfig.configMap".to_owned(), act })
        .collect()
}

impl Demand {
    fn refused(&self, user: &User, reviews: AccessReviews) -> Problem {
        let user = one_line(&user.username, 256);
        let act = &self.act;
        let message = match act.name.as_deref() {
            Some("*") => format!(
                "More than {MAX_SECRETS} Secrets are named, and whether `{user}` may read each of them is not asked. Name fewer."
            ),
            Some(_) => format!(
                "`{user}` may not {act}, and this would give its content away. Name a Secret that you may read, or have somebody apply this who may."
            ),
            None => format!(
                "`{user}` may not {act}, and this runs one. Get the right, or have somebody apply this who has it."
            ),
        };
        let severity = match reviews {
            AccessReviews::Enforce => Severity::Error,
            AccessReviews::Warn => Severity::Warning,
        };
        Problem { path: self.path.clone(), reason: NOT_ALLOWED.to_owned(), severity, message }
    }
}
