//! The layer itself: gate, count, hook, time.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use kube::client::{Body, DynBody};
use serde_json::{Value, json};
use thiserror::Error;
use tower::{BoxError, Layer, Service};

use super::call::{Call, End};
use super::gate::GateClosed;
use super::hooks::{SharedHook, Verdict};
use super::{ApiCalls, Layers, WriteGate};

/// How long the API server may take to begin an answer that is no stream. Its own limit is a minute.
const PATIENCE: Duration = Duration::from_secs(65);

/// The API server did not answer in time. A write may have been carried out or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the API server gave no answer within {} s", PATIENCE.as_secs())]
pub struct TimedOut;

/// A connection that a hook broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a test broke the connection")]
struct Broken;

type Answer = Response<Box<DynBody>>;

/// kube's stack with [`Layers`] around it.
pub struct Layered<S> {
    inner: S,
    layers: Layers,
}

impl<S> Layer<S> for Layers {
    type Service = Layered<S>;

    fn layer(&self, inner: S) -> Layered<S> {
        Layered { inner, layers: self.clone() }
    }
}

impl<S> Service<Request<Body>> for Layered<S>
where
    S: Service<Request<Body>, Response = Answer, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let call = Call::of(&parts);
        let gate = self.layers.gate.clone().filter(|_| call.is_write());
        let calls = self.layers.calls.clone();
        // The gate is asked right before the request goes out, not when somebody first thought of it.
        if let Some(closed) = gate.as_ref().and_then(|gate| gate.check().err()) {
            count(calls.as_ref(), &call, End::Refused);
            return futures_util::future::ready(Err(closed.into())).boxed();
        }
        let hook = self.layers.hook.clone();
        if let Some(end) = hook.as_ref().and_then(|hook| carry_out(hook.before(&call))) {
            return futures_util::future::ready(end).boxed();
        }
        let answer = self.inner.call(Request::from_parts(parts, body));
        async move {
            let result = in_time(guarded(answer, gate), &call).await;
            let end = match &result {
                Ok(answer) => End::Answered(answer.status()),
                Err(_) => End::Broken,
            };
            count(calls.as_ref(), &call, end);
            after(hook, &call, result)
        }
        .boxed()
    }
}

/// Whether a call failed because the gate is closed, and why. Such a failure is nothing to report: the
/// process is about to end, or another leads.
pub fn refused_by_gate(error: &kube::Error) -> Option<GateClosed> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(closed) = error.downcast_ref::<GateClosed>() {
            return Some(*closed);
        }
        cause = error.source();
    }
    None
}

/// Gives a write up when the gate closes first.
async fn guarded(
    answer: impl Future<Output = Result<Answer, BoxError>>,
    gate: Option<WriteGate>,
) -> Result<Answer, BoxError> {
    let Some(gate) = gate else { return answer.await };
    tokio::select! {
        // An answer that is there counts, even when the lease has just ended.
        biased;
        answer = answer => answer,
        () = gate.shut() => Err(GateClosed::LostMeanwhile.into()),
    }
}

async fn in_time(
    answer: impl Future<Output = Result<Answer, BoxError>>,
    call: &Call,
) -> Result<Answer, BoxError> {
    // The first bytes of a watch may come as late as its first event.
    if call.is_stream() {
        return answer.await;
    }
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(TimedOut.into()))
}

fn count(calls: Option<&ApiCalls>, call: &Call, end: End) {
    if let Some(calls) = calls {
        calls.ended(call, end);
    }
}

fn after(
    hook: Option<SharedHook>,
    call: &Call,
    result: Result<Answer, BoxError>,
) -> Result<Answer, BoxError> {
    let (Some(hook), Ok(answer)) = (hook, &result) else { return result };
    carry_out(hook.after(call, answer.status().as_u16())).unwrap_or(result)
}

fn carry_out(verdict: Verdict) -> Option<Result<Answer, BoxError>> {
    match verdict {
        Verdict::Pass => None,
        Verdict::Break => Some(Err(Broken.into())),
        Verdict::Answer { code, reason } => Some(Ok(status(code, &reason))),
    }
}

fn status(code: u16, reason: &str) -> Answer {
    let message = format!("a test answered {code} {reason}");
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    let mut answer: Answer = Response::new(json_body(&body));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn json_body(body: &Value) -> Box<DynBody> {
    Box::new(Full::new(Bytes::from(body.to_string())).map_err(|never: Infallible| match never {}))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
    use kube::client::ClientBuilder;
    use skep_runtime::clock::{SharedClock, SystemClock};
    use skep_runtime::metrics::Metrics;

    use super::super::{Deadline, hooks};
    use super::*;

    /// An API server that says yes, or never answers.
    fn client(layers: Layers, silent: bool) -> (kube::Client, Arc<Mutex<Vec<String>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let server = tower::service_fn(move |request: Request<Body>| {
            log.lock().expect("a lock").push(format!("{} {}", request.method(), request.uri().path()));
            async move {
                if silent {
                    std::future::pending::<()>().await;
                }
                let body = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}});
                Ok::<_, BoxError>(Response::new(json_body(&body)))
            }
        });
        (ClientBuilder::new(server, "default").with_layer(&layers).build(), seen)
    }

    fn api(client: &kube::Client) -> Api<ConfigMap> {
        Api::namespaced(client.clone(), "a")
    }

    async fn every_write(api: &Api<ConfigMap>) -> Vec<kube::Error> {
        let object = ConfigMap::default();
        let patch = Patch::Merge(json!({}));
        let results = [
            api.create(&PostParams::default(), &object).await.map(drop),
            api.replace("a", &PostParams::default(), &object).await.map(drop),
            api.patch("a", &PatchParams::default(), &patch).await.map(drop),
            api.delete("a", &DeleteParams::default()).await.map(drop),
        ];
        results.into_iter().filter_map(Result::err).collect()
    }

    #[tokio::test]
    async fn a_closed_gate_refuses_each_kind_of_write_and_no_read() {
        let clock: SharedClock = SystemClock::shared();
        let gate = WriteGate::closed(Arc::clone(&clock), Duration::ZERO);
        let registry = Metrics::new();
        let calls = ApiCalls::register(&registry);
        let (client, seen) =
            client(Layers { gate: Some(gate.clone()), calls: Some(calls), hook: None }, false);
        let api = api(&client);
        let errors = every_write(&api).await;
        assert_eq!(errors.len(), 4);
        for error in &errors {
            assert_eq!(refused_by_gate(error), Some(GateClosed::NotLeader), "{error}");
        }
        assert!(seen.lock().expect("a lock").is_empty(), "nothing was sent");
        api.get("a").await.expect("reading is free");
        gate.open_until(Deadline::after(&clock, Duration::from_secs(60)));
        assert!(every_write(&api).await.is_empty());
        assert_eq!(seen.lock().expect("a lock").len(), 5);
        let text = registry.encode();
        for line in [
            r#"skep_operator_api_requests_total{verb="create",resource="configmaps",code="refused"} 1"#,
            r#"skep_operator_api_requests_total{verb="create",resource="configmaps",code="200"} 1"#,
            r#"skep_operator_api_requests_total{verb="get",resource="configmaps",code="200"} 1"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[tokio::test]
    async fn a_write_on_its_way_is_given_up_when_the_gate_closes() {
        let clock: SharedClock = SystemClock::shared();
        let gate = WriteGate::closed(Arc::clone(&clock), Duration::ZERO);
        gate.open_until(Deadline::after(&clock, Duration::from_secs(60)));
        let (client, seen) = client(Layers { gate: Some(gate.clone()), ..Layers::default() }, true);
        let write = tokio::spawn({
            let api = api(&client);
            async move { api.delete("a", &DeleteParams::default()).await.map(drop) }
        });
        while seen.lock().expect("a lock").is_empty() {
            tokio::task::yield_now().await;
        }
        gate.close();
        let error = write.await.expect("it ends").expect_err("it failed");
        assert_eq!(refused_by_gate(&error), Some(GateClosed::LostMeanwhile));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_is_given_up() {
        let (client, _) = client(Layers::default(), true);
        let error = api(&client).get("a").await.expect_err("there is no answer");
        assert!(format!("{error}").contains("no answer within 65 s"), "{error}");
    }

    #[derive(Debug)]
    struct Conflicts;

    impl hooks::Hook for Conflicts {
        fn before(&self, call: &Call) -> Verdict {
            if call.verb == "delete" { Verdict::Break } else { Verdict::Pass }
        }

        fn after(&self, call: &Call, _code: u16) -> Verdict {
            if call.verb == "patch" {
                Verdict::Answer { code: 409, reason: "Conflict".to_owned() }
            } else {
                Verdict::Pass
            }
        }
    }

    #[tokio::test]
    async fn a_hook_can_fail_a_call_before_and_after_it_is_carried_out() {
        let (client, seen) = client(Layers { hook: Some(Arc::new(Conflicts)), ..Layers::default() }, false);
        let errors = every_write(&api(&client)).await;
        assert_eq!(errors.len(), 2);
        assert!(matches!(&errors[0], kube::Error::Api(status) if status.is_conflict()), "{:?}", errors[0]);
        let sent = seen.lock().expect("a lock").clone();
        assert!(sent.iter().any(|line| line.starts_with("PATCH")), "{sent:?}");
        assert!(!sent.iter().any(|line| line.starts_with("DELETE")), "{sent:?}");
    }
}
