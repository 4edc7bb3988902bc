//! A JSON-RPC message as MCP clients send it: read once, strictly, with the original bytes kept.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use skep_api::json::{self, JsonFault};

/// Names that mean something in an envelope.
const ENVELOPE: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];

/// Names that mean something in `params`, in any MCP version.
const PARAMS: [&str; 22] = [
    "_meta",
    "argument",
    "arguments",
    "capabilities",
    "clientInfo",
    "context",
    "cursor",
    "inputResponses",
    "level",
    "name",
    "notifications",
    "progressToken",
    "protocolVersion",
    "ref",
    "requestId",
    "requestState",
    "resourceSubscriptions",
    "task",
    "taskId",
    "uri",
    "ttl",
    "reason",
];

/// Why a body is no message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MessageFault {
    #[error("{0}")]
    Json(JsonFault),
    #[error("JSON-RPC batch requests are not supported (batching was removed in MCP revision 2025-06-18)")]
    Batch,
    #[error("the body is not a JSON-RPC 2.0 message: {reason}")]
    NotAMessage { reason: &'static str },
    #[error("{found:?} differs from {known:?} only in case; write {known:?}")]
    Folds { found: String, known: &'static str },
    #[error("{method} needs {what} in params")]
    Params { method: String, what: &'static str },
}

/// Members of an object in their order, values untouched.
#[derive(Debug, Default)]
pub struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads an object; `None` when `raw` is no object.
    pub fn read(raw: &'a RawValue) -> Option<Self> {
        serde_json::from_str(raw.get()).ok()
    }

    /// The value of a member.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| *value)
    }

    /// The value of a member, as a string.
    pub fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(map.size_hint().unwrap_or(4));
                while let Some(Name(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// A name that is borrowed where the text has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Read)
    }
}

/// A request id: a string or an integer, with its own spelling.
#[derive(Debug, Clone)]
pub struct Id {
    raw: String,
    value: Value,
}

impl Id {
    /// Reads an id; `None` for anything but a string or an integer.
    pub fn read(raw: &RawValue) -> Option<Self> {
        let value: Value = serde_json::from_str(raw.get()).ok()?;
        let fine = match &value {
            Value::String(_) => true,
            Value::Number(number) => {
                number.is_i64()
                    || number.is_u64()
                    || number.as_f64().is_some_and(|float| float.fract() == 0.0)
            }
            _ => false,
        };
        fine.then(|| Self { raw: raw.get().to_owned(), value })
    }

    /// The id as it was written.
    pub fn raw(&self) -> &str {
        &self.raw
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::Number(a), Value::Number(b)) => {
                // 1 and 1.0 are one id. Beyond 2^53 doubles run together, so only the spelling counts.
                let exact = |number: &serde_json::Number| {
                    number.as_f64().filter(|float| float.abs() < 9_007_199_254_740_992.0)
                };
                match (exact(a), exact(b)) {
                    (Some(a), Some(b)) => a == b,
                    (None, None) => self.raw == other.raw,
                    _ => false,
                }
            }
            (a, b) => a == b,
        }
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // As it was written: a client may match its ids as text, and a long one does not fit a number.
        match serde_json::from_str::<&RawValue>(&self.raw) {
            Ok(raw) => raw.serialize(serializer),
            Err(_) => self.value.serialize(serializer),
        }
    }
}

/// What kind of JSON-RPC message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Request,
    Notification,
    /// A client's answer to a request of the server (sampling, elicitation, roots).
    Response,
}

/// Lists that are filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListKind {
    Tools,
    Prompts,
    Resources,
    ResourceTemplates,
}

impl ListKind {
    /// Member of the result that holds the items.
    pub fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::ResourceTemplates => "resourceTemplates",
        }
    }

    /// Member of an item that names it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::ResourceTemplates => "uriTemplate",
        }
    }

    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::ResourceTemplates];
}

/// What a message asks for, as far as anybody here decides about it.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// `tools/call`; `span` is where the name stands in the body, quotes included.
    Tool { name: String, span: Range<usize>, arguments: Value },
    /// `prompts/get`, and `completion/complete` for a prompt.
    Prompt { name: String, arguments: Value },
    /// `resources/read`, `subscribe`, `unsubscribe`, and `completion/complete` for a resource.
    Resource { uri: String },
    /// `subscriptions/listen` with the resources it names.
    Listen { uris: Vec<String> },
    /// One of the lists.
    List(ListKind),
    /// `initialize`, with the client's name and version.
    Initialize { client: Option<String>, version: Option<String> },
    /// A method that needs no decision of its own: ping, discover, logging, notifications.
    Open,
    /// A method nobody here knows.
    Unknown,
    /// Not a method at all: a client's response.
    Answer,
}

/// A message that was read.
#[derive(Debug, Clone)]
pub struct Message {
    /// The bytes that were judged, and that are sent on.
    pub body: Bytes,
    /// Request, notification or response.
    pub form: Form,
    /// Id of a request or response.
    pub id: Option<Id>,
    /// Method of a request or notification; empty for a response.
    pub method: String,
    /// What it asks for.
    pub call: Call,
}

/// Reads a body.
///
/// # Errors
/// When it can be read in two ways, or not at all, as a single JSON-RPC message.
pub fn read(body: Bytes, depth: usize) -> Result<Message, MessageFault> {
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(MessageFault::Batch);
    }
    let text = json::check(&body, depth).map_err(MessageFault::Json)?;
    let not = |reason| MessageFault::NotAMessage { reason };
    let envelope: Members<'_> = serde_json::from_str(text).map_err(|_| not("it is no object"))?;
    no_folding(&envelope, &ENVELOPE)?;
    if envelope.text("jsonrpc").as_deref() != Some("2.0") {
        return Err(not("jsonrpc must be \"2.0\""));
    }
    let id = match envelope.get("id") {
        Some(raw) => Some(Id::read(raw).ok_or(not("id must be a string or an integer"))?),
        None => None,
    };
    let answers = envelope.get("result").is_some() || envelope.get("error").is_some();
    let (form, method, call) = match envelope.get("method") {
        Some(_) if answers => return Err(not("it has a method and a result")),
        Some(_) => {
            let method = envelope.text("method").ok_or(not("method must be a string"))?;
            if method.contains('\0') {
                return Err(not("method contains NUL"));
            }
            let form = if id.is_some() { Form::Request } else { Form::Notification };
            let params = params(&envelope)?;
            let call = call(&method, form, &params, text)?;
            (form, method, call)
        }
        None if answers && id.is_some() => (Form::Response, String::new(), Call::Answer),
        None => return Err(not("it has neither a method nor a result")),
    };
    Ok(Message { form, id, method, call, body })
}

fn params<'a>(envelope: &Members<'a>) -> Result<Members<'a>, MessageFault> {
    // Some clients write null where they mean nothing.
    let Some(raw) = envelope.get("params").filter(|raw| raw.get() != "null") else {
        return Ok(Members::default());
    };
    let members =
        Members::read(raw).ok_or(MessageFault::NotAMessage { reason: "params must be an object" })?;
    no_folding(&members, &PARAMS)?;
    Ok(members)
}

fn no_folding(members: &Members<'_>, known: &[&'static str]) -> Result<(), MessageFault> {
    for (name, _) in &members.0 {
        if let Some(known) = known.iter().find(|known| json::folds_to(name, known)) {
            return Err(MessageFault::Folds { found: name.chars().take(64).collect(), known });
        }
    }
    Ok(())
}

fn call(method: &str, form: Form, params: &Members<'_>, text: &str) -> Result<Call, MessageFault> {
    let need = |what| MessageFault::Params { method: method.to_owned(), what };
    let named = |name: &'static str, what| {
        params.text(name).filter(|text| !text.contains('\0')).ok_or_else(|| need(what))
    };
    let value = |name: &str| {
        params.get(name).and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or(Value::Null)
    };
    if form == Form::Notification {
        return Ok(if method.starts_with("notifications/") { Call::Open } else { Call::Unknown });
    }
    Ok(match method {
        "tools/call" => {
            let name = named("name", "a name")?;
            let raw = params.get("name").ok_or_else(|| need("a name"))?;
            let start = (raw.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
            Call::Tool { name, span: start..start + raw.get().len(), arguments: value("arguments") }
        }
        "prompts/get" => Call::Prompt { name: named("name", "a name")?, arguments: value("arguments") },
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
            Call::Resource { uri: named("uri", "a uri")? }
        }
        "completion/complete" => {
            completion(&value("ref")).ok_or_else(|| need("a ref to a prompt or resource"))?
        }
        "subscriptions/listen" => Call::Listen {
            uris: listened(&value("notifications"))
                .and_then(|mut uris| {
                    uris.extend(listened_uris(&value("resourceSubscriptions"))?);
                    Some(uris)
                })
                .ok_or_else(|| need("resource URIs that are strings"))?,
        },
        "tools/list" => Call::List(ListKind::Tools),
        "prompts/list" => Call::List(ListKind::Prompts),
        "resources/list" => Call::List(ListKind::Resources),
        "resources/templates/list" => Call::List(ListKind::ResourceTemplates),
        "initialize" => {
            let client = value("clientInfo");
            let text = |name: &str| client.get(name).and_then(Value::as_str).map(str::to_owned);
            Call::Initialize { client: text("name"), version: text("version") }
        }
        "ping" | "server/discover" | "logging/setLevel" | "roots/list" => Call::Open,
        _ => Call::Unknown,
    })
}

fn completion(reference: &Value) -> Option<Call> {
    let text = |name: &str| reference.get(name)?.as_str().map(str::to_owned);
    match text("type")?.as_str() {
        "ref/prompt" => Some(Call::Prompt { name: text("name")?, arguments: Value::Null }),
        "ref/resource" => Some(Call::Resource { uri: text("uri")? }),
        _ => None,
    }
}

fn listened(notifications: &Value) -> Option<Vec<String>> {
    match notifications {
        Value::Object(members) => listened_uris(members.get("resourceSubscriptions").unwrap_or(&Value::Null)),
        Value::Null => Some(Vec::new()),
        _ => None,
    }
}

fn listened_uris(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().or_else(|| item.get("uri")?.as_str()).map(str::to_owned))
            .collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Message, MessageFault> {
        read(Bytes::copy_from_slice(text.as_bytes()), 64)
    }

    #[test]
    fn messages_are_told_apart() {
        let call = parse(
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"add","arguments":{"Name":1,"NAME":2}}}"#,
        )
        .unwrap();
        let Call::Tool { name, span, arguments } = &call.call else { panic!("{call:?}") };
        assert_eq!(name, "add");
        assert_eq!(&call.body[span.clone()], b"\"add\"");
        assert_eq!(arguments["NAME"], 2);
        for (text, form, expected) in [
            (
                r#"{"jsonrpc":"2.0","id":"a","method":"tools/list"}"#,
                Form::Request,
                Call::List(ListKind::Tools),
            ),
            (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, Form::Notification, Call::Open),
            (r#"{"jsonrpc":"2.0","method":"tools/call"}"#, Form::Notification, Call::Unknown),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Form::Response, Call::Answer),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get"}"#, Form::Request, Call::Unknown),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"x:y"}}"#,
                Form::Request,
                Call::Resource { uri: "x:y".to_owned() },
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p"}}}"#,
                Form::Request,
                Call::Prompt { name: "p".to_owned(), arguments: Value::Null },
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["a:b"]}}}"#,
                Form::Request,
                Call::Listen { uris: vec!["a:b".to_owned()] },
            ),
        ] {
            let message = parse(text).unwrap();
            assert_eq!((message.form, message.call), (form, expected), "{text}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (bad, expected) in [
            (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, "batch"),
            (" \n[]", "batch"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#, "duplicate name"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#, "only in case"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","param\u017f":{}}"#, "only in case"),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}"#,
                "only in case",
            ),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}"#, "a name"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a\u0000"}}"#, "a name"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["a"]}"#, "params"),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, "id must"),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, "id must"),
            (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, "2.0"),
            (r#"{"id":1,"method":"ping"}"#, "2.0"),
            (r#"{"jsonrpc":"2.0","id":1}"#, "neither"),
            (r#"{"jsonrpc":"2.0","result":{}}"#, "neither"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#, "a method and a result"),
            ("7", "no object"),
            ("", "EOF"),
        ] {
            let fault = parse(bad).unwrap_err().to_string();
            assert!(fault.contains(expected), "{bad}: {fault}");
        }
        let bom = [b"\xef\xbb\xbf".as_slice(), br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#].concat();
        assert!(matches!(read(bom.into(), 64), Err(MessageFault::Json(JsonFault::ByteOrderMark))));
    }

    #[test]
    fn ids_are_compared_by_value() {
        let id = |text: &str| Id::read(serde_json::from_str(text).unwrap());
        assert_eq!(id("1"), id("1.0"));
        assert_ne!(id("1"), id("\"1\""));
        assert_ne!(id("9007199254740992"), id("9007199254740993"));
        assert_eq!(id("123456789012345678901"), id("123456789012345678901"));
        assert_eq!(id("\"\\u0061\""), id("\"a\""));
        assert!(id("null").is_none() && id("{}").is_none() && id("1.5").is_none());
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(bytes.into(), 64);
        }

        #[test]
        fn the_span_of_a_tool_name_is_that_name(name in "\\PC{0,20}", pad in " {0,5}") {
            let quoted = serde_json::to_string(&name).unwrap();
            let text = format!("{{\"jsonrpc\":\"2.0\",{pad}\"id\":1,\"params\":{{{pad}\"name\":{pad}{quoted}}},\"method\":\"tools/call\"}}");
            let message = parse(&text).unwrap();
            let Call::Tool { name: read, span, .. } = &message.call else { panic!() };
            prop_assert_eq!(read, &name);
            prop_assert_eq!(&message.body[span.clone()], quoted.as_bytes());
        }
    }
}
