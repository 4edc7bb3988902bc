//! To the backend and back.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use skep_runtime::clock::SharedClock;
use skep_runtime::drain::DrainWatch;
use skep_runtime::http::{ResponseBody, boxed, full};
use tokio_util::sync::CancellationToken;

use super::authorize::principal;
use super::doubts::Doubts;
use super::outgoing::{Credential, Outgoing};
use crate::annotations::AnnotationCache;
use crate::cedar::Policies;
use crate::error::{BackendFault, Rejection};
use crate::lists::{Filtered, ListFilter, Unfilterable};
use crate::message::{Call, Form, Id, ListKind};
use crate::request::Authorized;
use crate::tools::ToolRules;
use crate::transport::answer::{EventStream, PlainAnswer, SharedSeen, StreamRules};
use crate::upstream::{Upstream, Version, headers};

/// What forwarding needs besides the request.
#[derive(Debug, Clone)]
pub struct Forward {
    pub upstream: Upstream,
    pub outgoing: Outgoing,
    pub doubts: Arc<Doubts>,
    pub clock: SharedClock,
    pub policies: Option<Arc<Policies>>,
    pub tools: Arc<ToolRules>,
    pub annotations: Arc<AnnotationCache>,
    pub list_bytes: usize,
    pub sse_frame_bytes: usize,
    pub scan_errors: bool,
    pub drain: DrainWatch,
    /// Cancelled when no call is let through any more.
    pub closing: CancellationToken,
}

/// Where a request comes from, as far as forwarding wants to know.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// Address of the client.
    pub source: &'a str,
    /// Our id of the request.
    pub request_id: &'a str,
}

/// An answer whose head is there, and whether it is a stream of events.
pub struct Answer {
    pub response: Response<ResponseBody>,
    pub streamed: bool,
}

impl Forward {
    /// Forwards a request that may be forwarded, and makes the answer fit for its caller. When the server
    /// refuses `credential`, `remint` is asked for another, once.
    ///
    /// # Errors
    /// When the backend doesn't answer, or in a way that can't be passed on.
    pub async fn forward(
        &self,
        request: Authorized,
        credential: Credential,
        remint: impl AsyncFnOnce() -> Result<Credential, Rejection>,
        from: Sender<'_>,
        seen: &SharedSeen,
    ) -> Result<Answer, Rejection> {
        let id = request.id();
        let fail = |source| Rejection::Backend { source, id: id.clone() };
        let filter = self.filter(&request);
        let asked = match request.message().map(|message| &message.call) {
            Some(Call::List(kind)) => Some(*kind),
            _ => None,
        };
        let direct = self.upstream.forwards_token();
        let known = request.caller().identity().filter(|_| !credential.is_shared());
        let who = known.map(|identity| identity.token_digest).unwrap_or_default();
        let (method, headers, query, body) = request.into_parts();
        let standing = method == Method::GET;
        let sent = headers::to_backend(headers, direct, from.source, from.request_id);
        let send = async |credential: &Credential, fixed: &Version| {
            self.upstream.send(&method, query.as_deref(), &sent, &body, credential, fixed).await
        };
        let fixed = self.upstream.fixed();
        let mut response = send(&credential, &fixed).await.map_err(fail)?;
        // The server did nothing for a credential that it refused: the call may be sent again with another.
        let refused = |response: &Response<Incoming>| {
            !direct && credential.refused(response.status(), response.headers())
        };
        let now = self.clock.instant();
        if refused(&response) && !self.doubts.about(&who, now) {
            let forgotten = credential.forget();
            // A secret may have been rotated before the watch of its file has told us.
            let changed = self.upstream.renew(&fixed).await;
            if forgotten || changed {
                let other = if forgotten { remint().await? } else { credential.clone() };
                response = send(&other, &self.upstream.fixed()).await.map_err(fail)?;
                if refused(&response) {
                    self.doubts.note(who, now);
                }
            }
        }
        if refused(&response) {
            let sent = credential.is_sent() || !fixed.is_empty();
            return Err(fail(if sent { BackendFault::Unauthorized } else { BackendFault::WantsCredential }));
        }
        let (mut head, body) = response.into_parts();
        check_status(head.status).map_err(fail)?;
        headers::to_client(&mut head.headers, direct);
        let kind = media_type(&head.headers);
        if filter.is_some() && (asked.is_some() || head.status.is_success()) && is_encoded(&head.headers) {
            return Err(fail(BackendFault::Protocol {
                reason: "it is compressed although nobody asked for that",
            }));
        }
        if kind.as_deref() == Some("text/event-stream") {
            head.headers.remove(CONTENT_LENGTH);
            let scan = self.scan_errors && !is_encoded(&head.headers);
            let rules =
                StreamRules { filter, scan, max_frame: self.sse_frame_bytes, id: id.clone(), standing };
            let stream =
                EventStream::new(body, rules, self.drain.clone(), self.closing.clone(), Arc::clone(seen));
            return Ok(Answer { response: Response::from_parts(head, boxed(stream)), streamed: true });
        }
        match filter {
            Some(filter) if asked.is_some() => {
                let kind = kind.as_deref();
                let bytes = self.filtered(&filter, asked, kind, head.status, body).await.map_err(fail)?;
                head.headers.remove(CONTENT_LENGTH);
                Ok(Answer { response: Response::from_parts(head, full(bytes)), streamed: false })
            }
            _ => {
                let plain = PlainAnswer::new(body, self.scan_errors, Arc::clone(seen));
                Ok(Answer { response: Response::from_parts(head, boxed(plain)), streamed: false })
            }
        }
    }

    fn filter(&self, request: &Authorized) -> Option<ListFilter> {
        let answered =
            request.message().filter(|message| message.form == Form::Request).and_then(|message| {
                let list = match message.call {
                    Call::List(kind) => Some(kind),
                    _ => None,
                };
                Some((message.id.clone()?, list)) as Option<(Id, Option<ListKind>)>
            });
        let filter = ListFilter {
            policies: self.policies.clone().map(|policies| (policies, principal(request.caller()))),
            tools: Arc::clone(&self.tools),
            annotations: Arc::clone(&self.annotations),
            request: answered,
        };
        (!filter.is_empty()).then_some(filter)
    }

    async fn filtered(
        &self,
        filter: &ListFilter,
        asked: Option<ListKind>,
        kind: Option<&str>,
        status: StatusCode,
        body: Incoming,
    ) -> Result<Bytes, BackendFault> {
        let collected = Limited::new(body, self.list_bytes).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                BackendFault::ListTooLarge
            } else {
                BackendFault::Closed
            }
        })?;
        let bytes = collected.to_bytes();
        // Whatever the answer calls itself, a list that isn't JSON is not passed on.
        if kind != Some("application/json") {
            tracing::warn!(content_type = kind.unwrap_or("none"), list = ?asked, "a list has the wrong media type");
        }
        match filter.message(&bytes) {
            Ok(Filtered::Unchanged) => Ok(bytes),
            Ok(Filtered::Replaced(text)) => Ok(Bytes::from(text)),
            // A page about an error is no list, and says why there is none.
            Err(Unfilterable::Json) if !status.is_success() => Ok(bytes),
            Err(error) => {
                tracing::warn!(error = %error, "a list cannot be filtered and is not passed on");
                Err(BackendFault::Unfilterable)
            }
        }
    }
}

fn check_status(status: StatusCode) -> Result<(), BackendFault> {
    match status {
        StatusCode::SWITCHING_PROTOCOLS => {
            Err(BackendFault::Protocol { reason: "it wants to switch protocols" })
        }
        _ => Ok(()),
    }
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
}
