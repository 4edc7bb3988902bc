//! Audit records: one JSON line for each request, in ToolHive's schema, written when the answer is over.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};
use skep_api::runconfig::AuditConfig;
use skep_auth::identity::Identity;

use crate::message::{Call, Message};

/// Records that wait to be written; a full queue makes requests wait rather than records vanish.
const QUEUE: usize = 16_384;

/// How long records gather before they are written together.
const GATHER: Duration = Duration::from_millis(2);

/// Longest text a client may put into one field of a record.
const FIELD: usize = 256;

/// Where records go. One sink serves all proxies of a process.
#[derive(Debug, Clone)]
pub struct AuditSink {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: Option<SyncSender<String>>,
    writer: Option<JoinHandle<()>>,
    failures: Arc<AtomicU64>,
}

impl AuditSink {
    /// Records on standard output.
    pub fn stdout() -> Self {
        Self::start(Box::new(std::io::stdout()))
    }

    /// Records appended to a file, which only its owner can read.
    ///
    /// # Errors
    /// When the file can't be opened.
    pub fn file(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        Ok(Self::start(Box::new(file)))
    }

    /// Records to any writer.
    pub fn start(target: Box<dyn Write + Send>) -> Self {
        let (queue, records) = sync_channel(QUEUE);
        let failures = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&failures);
        let writer = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write_records(target, &records, &counter))
            .ok();
        Self { inner: Arc::new(Inner { queue: Some(queue), writer, failures }) }
    }

    /// Hands a record over.
    pub fn write(&self, record: &AuditRecord) {
        let Ok(line) = serde_json::to_string(record) else { return };
        let sent = self.inner.queue.as_ref().is_some_and(|queue| queue.send(line).is_ok());
        if !sent {
            self.inner.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records that could not be written.
    pub fn failures(&self) -> u64 {
        self.inner.failures.load(Ordering::Relaxed)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Closing the queue lets the writer finish what is in it; waiting makes sure it has.
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write_records(mut target: Box<dyn Write + Send>, records: &Receiver<String>, failures: &AtomicU64) {
    let mut batch = Vec::with_capacity(16 * 1024);
    while let Ok(first) = records.recv() {
        batch.clear();
        let mut count = 0_u64;
        for record in std::iter::once(first).chain(records.try_iter().take(255)) {
            batch.extend_from_slice(record.as_bytes());
            batch.push(b'\n');
            count += 1;
        }
        if let Err(error) = target.write_all(&batch).and_then(|()| target.flush()) {
            failures.fetch_add(count, Ordering::Relaxed);
            tracing::error!(error = %error, records = count, "audit records could not be written");
        }
        // Under load, records that come meanwhile are written together, and nobody wakes this thread
        // for each of them.
        std::thread::sleep(GATHER);
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Success,
    Denied,
    Failure,
    Error,
    ApplicationError,
}

impl Outcome {
    /// By status, and by what was seen inside a 2xx answer.
    pub fn of(status: u16, denied: bool, application_error: bool) -> Self {
        match status {
            _ if denied => Self::Denied,
            401 | 403 => Self::Denied,
            500.. => Self::Error,
            400.. => Self::Failure,
            _ if application_error => Self::ApplicationError,
            _ => Self::Success,
        }
    }
}

/// One line of the audit log.
#[derive(Debug, Clone, Serialize)]
pub struct AuditRecord {
    time: String,
    level: &'static str,
    msg: &'static str,
    audit_id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    logged_at: String,
    outcome: Outcome,
    component: String,
    source: Value,
    subjects: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delegation: Option<Value>,
    target: Map<String, Value>,
    metadata: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

/// What a record is made of.
#[derive(Debug)]
pub struct Facts<'a> {
    pub audit_id: String,
    pub now: jiff::Timestamp,
    pub component: &'a str,
    pub source_address: &'a str,
    pub user_agent: Option<&'a str>,
    pub request_id: &'a str,
    pub identity: Option<&'a Identity>,
    /// Actors of a delegation that are written down.
    pub delegation_depth: usize,
    pub client: Option<(&'a str, Option<&'a str>)>,
    pub http_method: &'a str,
    pub path: &'a str,
    pub mcp_method: &'a str,
    pub target: Option<Target>,
    pub status: u16,
    pub outcome: Outcome,
    pub duration: Duration,
    pub streamed: bool,
    pub response_bytes: u64,
    pub backend: &'a str,
    pub rpc_error: Option<(i64, &'a str)>,
    pub policies: &'a [String],
    /// Kind, audience and scopes of the credential that was made for the call.
    pub credential: Option<Value>,
    pub request_data: Option<&'a [u8]>,
    pub response_data: Option<&'a [u8]>,
}

/// What a request was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name of the tool or prompt, URI of the resource.
    pub name: String,
    /// `tool`, `prompt` or `resource`.
    pub kind: &'static str,
}

impl Target {
    /// The target of a message, where it has one.
    pub fn of(message: &Message) -> Option<Self> {
        let target = |name: &str, kind| Some(Self { name: name.to_owned(), kind });
        match &message.call {
            Call::Tool { name, .. } => target(name, "tool"),
            Call::Prompt { name, .. } => target(name, "prompt"),
            Call::Resource { uri } => target(uri, "resource"),
            _ => None,
        }
    }
}

impl AuditRecord {
    /// Makes a record. What clients wrote is cut to 256 characters a field and escaped by JSON.
    pub fn new(facts: Facts<'_>) -> Self {
        let logged_at = facts.now.to_string();
        let mut source_extra = Map::new();
        if let Some(agent) = facts.user_agent {
            source_extra.insert("user_agent".to_owned(), json!(capped(agent)));
        }
        source_extra.insert("request_id".to_owned(), json!(facts.request_id));
        let mut extra = Map::new();
        let millis = u64::try_from(facts.duration.as_millis()).unwrap_or(u64::MAX);
        extra.insert("duration_ms".to_owned(), json!(millis));
        extra.insert("transport".to_owned(), json!(if facts.streamed { "sse" } else { "http" }));
        extra.insert("response_size_bytes".to_owned(), json!(facts.response_bytes));
        extra.insert("backend_name".to_owned(), json!(facts.backend));
        extra.insert("http_status".to_owned(), json!(facts.status));
        if let Some((code, message)) = facts.rpc_error {
            extra.insert("jsonrpc_error_code".to_owned(), json!(code));
            extra.insert("jsonrpc_error_message".to_owned(), json!(capped(message)));
        }
        if !facts.policies.is_empty() {
            extra.insert("policies".to_owned(), json!(facts.policies));
        }
        if let Some(credential) = &facts.credential {
            extra.insert("credential".to_owned(), credential.clone());
        }
        let data = (facts.request_data.is_some() || facts.response_data.is_some()).then(|| {
            let mut data = Map::new();
            let mut add = |name: &str, bytes: Option<&[u8]>| {
                if let Some(bytes) = bytes {
                    data.insert(name.to_owned(), payload(bytes));
                }
            };
            add("request", facts.request_data);
            add("response", facts.response_data);
            Value::Object(data)
        });
        Self {
            time: logged_at.clone(),
            level: "AUDIT",
            msg: "audit_event",
            kind: event_type(facts.http_method, facts.mcp_method),
            outcome: facts.outcome,
            component: facts.component.to_owned(),
            source: json!({"type": "network", "value": facts.source_address, "extra": source_extra}),
            subjects: subjects(facts.identity, facts.client),
            delegation: facts.identity.and_then(|identity| delegation(identity, facts.delegation_depth)),
            target: target(&facts),
            metadata: json!({"extra": extra}),
            data,
            audit_id: facts.audit_id,
            logged_at,
        }
    }

    /// The event type, to select by.
    pub fn kind(&self) -> &'static str {
        self.kind
    }
}

/// Every event type. Configurations may name these.
pub const TYPES: [&str; 15] = [
    "http_request",
    "mcp_completion",
    "mcp_initialize",
    "mcp_logging",
    "mcp_notification",
    "mcp_ping",
    "mcp_prompt_get",
    "mcp_prompts_list",
    "mcp_request",
    "mcp_resource_read",
    "mcp_resources_list",
    "mcp_roots_list_changed",
    "mcp_tool_call",
    "mcp_tools_list",
    "sse_connection",
];

/// Whether a configuration wants records of this type.
pub fn wanted(config: &AuditConfig, kind: &str) -> bool {
    let named = |list: &[String]| list.iter().any(|name| name == kind);
    (config.event_types.is_empty() || named(&config.event_types)) && !named(&config.exclude_event_types)
}

fn event_type(http_method: &str, mcp_method: &str) -> &'static str {
    match mcp_method {
        "" if http_method == "GET" => "sse_connection",
        "" => "http_request",
        "initialize" => "mcp_initialize",
        "tools/call" => "mcp_tool_call",
        "tools/list" => "mcp_tools_list",
        "resources/read" => "mcp_resource_read",
        "resources/list" => "mcp_resources_list",
        "prompts/get" => "mcp_prompt_get",
        "prompts/list" => "mcp_prompts_list",
        "ping" => "mcp_ping",
        "logging/setLevel" => "mcp_logging",
        "completion/complete" => "mcp_completion",
        "notifications/roots/list_changed" => "mcp_roots_list_changed",
        method if method.starts_with("notifications/") => "mcp_notification",
        _ => "mcp_request",
    }
}

/// Who acts for the caller, the last actor first (`act`, RFC 8693 §4.1), cut at `depth`.
fn delegation(identity: &Identity, depth: usize) -> Option<Value> {
    let mut next = identity.claims.get("act");
    next?;
    let mut chain = Vec::new();
    let mut omitted = 0_u64;
    let mut malformed = None;
    while let Some(actor) = next {
        let Some(members) = actor.as_object() else {
            malformed = Some("act is not an object");
            break;
        };
        let text = |name: &str| members.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let Some(subject) = text("sub") else {
            malformed = Some("an actor has no sub");
            break;
        };
        if chain.len() < depth {
            let mut link = Map::new();
            if let Some(issuer) = text("iss") {
                link.insert("iss".to_owned(), json!(capped(issuer)));
            }
            link.insert("sub".to_owned(), json!(capped(subject)));
            chain.push(Value::Object(link));
        } else {
            omitted += 1;
        }
        next = members.get("act");
    }
    let mut delegation = Map::new();
    delegation.insert("chain".to_owned(), Value::Array(chain));
    if omitted > 0 {
        delegation.insert("truncated".to_owned(), json!(true));
        delegation.insert("omitted".to_owned(), json!(omitted));
    }
    if let Some(reason) = malformed {
        delegation.insert("malformed".to_owned(), json!(true));
        delegation.insert("malformedReason".to_owned(), json!(reason));
    }
    Some(Value::Object(delegation))
}

fn subjects(identity: Option<&Identity>, client: Option<(&str, Option<&str>)>) -> Map<String, Value> {
    let mut subjects = Map::new();
    let mut add = |name: &str, text: &str| subjects.insert(name.to_owned(), json!(capped(text)));
    match identity {
        Some(identity) => {
            add("user_id", &identity.subject);
            add("user", identity.display_name().unwrap_or(&identity.subject));
            add("issuer", &identity.issuer);
        }
        None => {
            add("user", "anonymous");
        }
    }
    if let Some((name, version)) = client {
        add("client_name", name);
        if let Some(version) = version {
            add("client_version", version);
        }
    }
    subjects
}

fn target(facts: &Facts<'_>) -> Map<String, Value> {
    let mut target = Map::new();
    target.insert("endpoint".to_owned(), json!(capped(facts.path)));
    let method = if facts.mcp_method.is_empty() { facts.http_method } else { facts.mcp_method };
    target.insert("method".to_owned(), json!(capped(method)));
    match &facts.target {
        Some(named) => {
            target.insert("name".to_owned(), json!(capped(&named.name)));
            target.insert("type".to_owned(), json!(named.kind));
        }
        None => {
            target.insert("type".to_owned(), json!("endpoint"));
        }
    }
    target
}

fn payload(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
}

fn capped(text: &str) -> String {
    text.chars().take(FIELD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn record(agent: &str, method: &str) -> AuditRecord {
        AuditRecord::new(Facts {
            audit_id: "id".to_owned(),
            now: jiff::Timestamp::UNIX_EPOCH,
            component: "demo",
            source_address: "127.0.0.1",
            user_agent: Some(agent),
            request_id: "r",
            identity: None,
            delegation_depth: 10,
            client: None,
            http_method: "POST",
            path: "/mcp",
            mcp_method: method,
            target: Some(Target { name: "add".to_owned(), kind: "tool" }),
            status: 200,
            outcome: Outcome::of(200, false, true),
            duration: Duration::from_millis(5),
            streamed: false,
            response_bytes: 7,
            backend: "demo",
            rpc_error: Some((-32000, "no")),
            policies: &[],
            credential: None,
            request_data: Some(b"{\"a\":1}"),
            response_data: Some(b"{\"a\":"),
        })
    }

    #[test]
    fn a_record_has_toolhives_schema() {
        let value = serde_json::to_value(record("curl", "tools/call")).unwrap();
        assert_eq!(
            value,
            json!({
                "time": "1970-01-01T00:00:00Z", "level": "AUDIT", "msg": "audit_event", "audit_id": "id",
                "type": "mcp_tool_call", "logged_at": "1970-01-01T00:00:00Z", "outcome": "application_error",
                "component": "demo",
                "source": {"type": "network", "value": "127.0.0.1", "extra": {"user_agent": "curl", "request_id": "r"}},
                "subjects": {"user": "anonymous"},
                "target": {"endpoint": "/mcp", "method": "tools/call", "name": "add", "type": "tool"},
                "metadata": {"extra": {"duration_ms": 5, "transport": "http", "response_size_bytes": 7, "backend_name": "demo",
                    "http_status": 200, "jsonrpc_error_code": -32000, "jsonrpc_error_message": "no"}},
                "data": {"request": {"a": 1}, "response": "{\"a\":"}
            })
        );
    }

    #[test]
    fn what_a_client_writes_cannot_forge_a_line() {
        let target = Shared::default();
        let sink = AuditSink::start(Box::new(target.clone()));
        let long = format!("evil\n{{\"msg\":\"audit_event\"}}\u{1b}[31m{}", "x".repeat(5000));
        sink.write(&record(&long, "x\ny"));
        drop(sink);
        let written = String::from_utf8(target.0.lock().unwrap().clone()).unwrap();
        assert_eq!(written.lines().count(), 1);
        assert!(written.len() < 2000 && !written.contains('\u{1b}'));
    }

    #[test]
    fn every_record_is_written_before_the_sink_is_gone() {
        let target = Shared::default();
        let sink = AuditSink::start(Box::new(target.clone()));
        for _ in 0..5000 {
            sink.write(&record("a", "ping"));
        }
        drop(sink);
        assert_eq!(target.0.lock().unwrap().iter().filter(|byte| **byte == b'\n').count(), 5000);
    }

    #[test]
    fn outcomes_follow_the_status() {
        for (status, denied, inside, expected) in [
            (200, false, false, Outcome::Success),
            (200, false, true, Outcome::ApplicationError),
            (200, true, true, Outcome::Denied),
            (202, false, false, Outcome::Success),
            (401, false, false, Outcome::Denied),
            (403, false, true, Outcome::Denied),
            (404, false, false, Outcome::Failure),
            (503, false, false, Outcome::Error),
        ] {
            assert_eq!(Outcome::of(status, denied, inside), expected, "{status}");
        }
    }

    #[test]
    fn types_can_be_selected() {
        let config = AuditConfig { event_types: vec!["mcp_tool_call".to_owned()], ..AuditConfig::default() };
        assert!(wanted(&config, "mcp_tool_call") && !wanted(&config, "sse_connection"));
        let config =
            AuditConfig { exclude_event_types: vec!["mcp_ping".to_owned()], ..AuditConfig::default() };
        assert!(!wanted(&config, "mcp_ping") && wanted(&config, "sse_connection"));
    }
}
