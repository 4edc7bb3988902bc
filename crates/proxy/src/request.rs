//! A request on its way through the pipeline. Each type can only be made by the stage before it, so a
//! request that was not authenticated, read and authorized can't be forwarded: it would not compile.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, Method};
use skep_auth::identity::Identity;

use crate::message::{Call, Id, Message};

/// Headers of a client that are nobody else's business.
const SECRET_HEADERS: [HeaderName; 3] = [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION];

/// Who calls.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Somebody whose token was verified.
    Known(Arc<Identity>),
    /// Anybody: the configuration says that no identity is asked for.
    Anonymous,
}

impl Caller {
    /// The identity, where there is one.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Self::Known(identity) => Some(identity),
            Self::Anonymous => None,
        }
    }
}

/// Head of a request whose caller is settled. Made by [`crate::stages::authenticate`].
#[derive(Debug)]
pub struct Authenticated {
    method: Method,
    headers: HeaderMap,
    query: Option<String>,
    caller: Caller,
}

impl Authenticated {
    pub(crate) fn new(method: Method, mut headers: HeaderMap, query: Option<String>, caller: Caller) -> Self {
        // From here on headers are carried about, and whoever shows them must not show these.
        for (name, value) in &mut headers {
            if SECRET_HEADERS.contains(name) {
                value.set_sensitive(true);
            }
        }
        Self { method, headers, query, caller }
    }

    /// HTTP method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Headers as they came.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Who calls.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

/// A request that was read, if it has a message. Made by [`crate::stages::parse`].
#[derive(Debug)]
pub struct Parsed {
    head: Authenticated,
    message: Option<Message>,
}

impl Parsed {
    pub(crate) fn new(head: Authenticated, message: Option<Message>) -> Self {
        Self { head, message }
    }

    /// Headers and caller.
    pub fn head(&self) -> &Authenticated {
        &self.head
    }

    /// The message of a POST.
    pub fn message(&self) -> Option<&Message> {
        self.message.as_ref()
    }

    /// Id of the request, for answers.
    pub fn id(&self) -> Option<Id> {
        self.message.as_ref().and_then(|message| message.id.clone())
    }

    /// Gives a tool call the backend's name for the tool: in the body and in `Mcp-Name`.
    pub(crate) fn rename_tool(mut self, actual: &str) -> Self {
        let Some(message) = &mut self.message else { return self };
        let Call::Tool { name, span, .. } = &mut message.call else { return self };
        if name == actual {
            return self;
        }
        let quoted = serde_json::to_string(actual).unwrap_or_default();
        let (Some(before), Some(after)) = (message.body.get(..span.start), message.body.get(span.end..))
        else {
            return self;
        };
        let body = [before, quoted.as_bytes(), after].concat();
        *span = span.start..span.start + quoted.len();
        actual.clone_into(name);
        message.body = Bytes::from(body);
        if self.head.headers.contains_key(crate::stages::parse::MCP_NAME) {
            self.head
                .headers
                .insert(crate::stages::parse::MCP_NAME, crate::stages::parse::header_text(actual));
        }
        self
    }
}

/// A request that may be forwarded. Made by [`crate::stages::authorize`].
#[derive(Debug)]
pub struct Authorized {
    parsed: Parsed,
}

impl Authorized {
    pub(crate) fn new(parsed: Parsed) -> Self {
        Self { parsed }
    }

    /// Who calls.
    pub fn caller(&self) -> &Caller {
        &self.parsed.head.caller
    }

    /// Headers as they came.
    pub fn headers(&self) -> &HeaderMap {
        &self.parsed.head.headers
    }

    /// Id of the request.
    pub fn id(&self) -> Option<Id> {
        self.parsed.id()
    }

    /// The message of a POST.
    pub fn message(&self) -> Option<&Message> {
        self.parsed.message()
    }

    pub(crate) fn into_parts(self) -> (Method, HeaderMap, Option<String>, Bytes) {
        let Parsed { head, message } = self.parsed;
        (head.method, head.headers, head.query, message.map(|message| message.body).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_keeps_secret_does_not_show_in_debug() {
        let mut headers = HeaderMap::new();
        for name in SECRET_HEADERS {
            headers.append(name.clone(), "hunter2".parse().unwrap());
            headers.append(name, "hunter3".parse().unwrap());
        }
        let head = Authenticated::new(Method::POST, headers, None, Caller::Anonymous);
        let shown = format!("{head:?}");
        assert!(!shown.contains("hunter") && shown.contains("authorization"), "{shown}");
    }
}
