//! An API server that is a map from paths to objects: get, list, create, replace, merge, with versions. Watches
//! begin and never tell anything.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// Something that was written.
#[derive(Clone)]
pub(crate) struct Write {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Value,
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

type Objects = BTreeMap<String, Value>;
type OnWrite = Arc<dyn Fn(&Write, &Objects) + Send + Sync>;
type Change = Arc<dyn Fn(&mut Value) + Send + Sync>;

#[derive(Default)]
struct State {
    objects: Objects,
    version: u64,
    writes: Vec<Write>,
    asked: usize,
    refused: usize,
    forbidden: Option<(String, String)>,
    interference: Option<(String, usize, Change)>,
    on_write: Option<OnWrite>,
}

/// The API server.
#[derive(Clone, Default)]
pub(crate) struct MapApi(Arc<Mutex<State>>);

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

impl MapApi {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
                let query = parts.uri.query().unwrap_or_default().to_owned();
                Ok::<_, std::io::Error>(api.answer(&parts.method, parts.uri.path(), &query, &body))
            }
        });
        Client::new(service, "default")
    }

    /// Writes as somebody else, whatever the version.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().store(path, object);
    }

    pub(crate) fn delete(&self, path: &str) {
        self.0.lock().unwrap().objects.remove(path);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// Writes that were carried out, in order; those of this test aside.
    pub(crate) fn writes(&self) -> Vec<Write> {
        self.0.lock().unwrap().writes.clone()
    }

    /// Requests so far.
    pub(crate) fn asked(&self) -> usize {
        self.0.lock().unwrap().asked
    }

    /// Writes that were refused for their version.
    pub(crate) fn refused(&self) -> usize {
        self.0.lock().unwrap().refused
    }

    /// Answers 403 to this method on paths that contain this.
    pub(crate) fn forbid(&self, method: &str, part: &str) {
        self.0.lock().unwrap().forbidden = Some((method.to_owned(), part.to_owned()));
    }

    pub(crate) fn allow(&self) {
        self.0.lock().unwrap().forbidden = None;
    }

    /// Changes an object right before each of the next writes of it. One that is to be created exists then.
    pub(crate) fn interfere(
        &self,
        path: &str,
        times: usize,
        change: impl Fn(&mut Value) + Send + Sync + 'static,
    ) {
        self.0.lock().unwrap().interference = Some((path.to_owned(), times, Arc::new(change)));
    }

    /// Called after each write, with everything there is.
    pub(crate) fn on_write(&self, called: impl Fn(&Write, &Objects) + Send + Sync + 'static) {
        self.0.lock().unwrap().on_write = Some(Arc::new(called));
    }

    fn answer(&self, method: &Method, path: &str, query: &str, body: &[u8]) -> Answer {
        let mut state = self.0.lock().unwrap();
        state.asked += 1;
        if let Some((forbidden, part)) = &state.forbidden
            && method == forbidden.as_str()
            && path.contains(part.as_str())
        {
            return status(403, "Forbidden");
        }
        if query.contains("watch=true") {
            let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
            return Response::new(body.boxed_unsync());
        }
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        if method == Method::GET {
            return state.read(path, query);
        }
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        let path = if method == Method::POST { format!("{path}/{name}") } else { path.to_owned() };
        state.interfere(&path, &body);
        let answer = match *method {
            Method::POST if state.objects.contains_key(&path) => Err(409),
            Method::POST => Ok(body.clone()),
            Method::PUT => state.versioned(&path, &body).map(|_| body.clone()),
            _ => state.versioned(&path, &body).map(|mut object| {
                merge(&mut object, &body);
                object
            }),
        };
        match answer {
            Ok(object) => {
                let stored = state.store(&path, object);
                let write = Write { method: method.to_string(), path, body };
                state.writes.push(write.clone());
                if let Some(on_write) = state.on_write.clone() {
                    on_write(&write, &state.objects);
                }
                json_answer(200, &stored)
            }
            Err(code) => {
                state.refused += usize::from(code == 409);
                status(code, if code == 409 { "Conflict" } else { "NotFound" })
            }
        }
    }
}

impl State {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn read(&self, path: &str, query: &str) -> Answer {
        if let Some(object) = self.objects.get(path) {
            return json_answer(200, object);
        }
        if !query.contains("fieldSelector") {
            return status(404, "NotFound");
        }
        let below = format!("{path}/");
        let items: Vec<&Value> =
            self.objects.iter().filter(|(at, _)| at.starts_with(&below)).map(|(_, object)| object).collect();
        let version = self.version.to_string();
        json_answer(
            200,
            &json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version}, "items": items}),
        )
    }

    /// The object, when it has the version that a change is for.
    fn versioned(&self, path: &str, change: &Value) -> Result<Value, u16> {
        let object = self.objects.get(path).ok_or(404_u16)?;
        let version = change["metadata"].get("resourceVersion");
        let same = version.is_none_or(|version| *version == object["metadata"]["resourceVersion"]);
        if same { Ok(object.clone()) } else { Err(409) }
    }

    fn interfere(&mut self, path: &str, body: &Value) {
        let Some((at, left, change)) = &mut self.interference else { return };
        if at != path || *left == 0 {
            return;
        }
        *left -= 1;
        let change = Arc::clone(change);
        let mut object = self.objects.get(path).cloned().unwrap_or_else(|| {
            let mut empty = body.clone();
            empty["data"] = json!({});
            empty
        });
        change(&mut object);
        self.store(path, object);
    }
}

/// A merge patch; lists of named things are merged by name, as a strategic one does.
fn merge(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (key, value) in change.iter().filter(|(key, _)| *key != "resourceVersion") {
                if value.is_null() {
                    target.remove(key);
                } else {
                    merge(target.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (Value::Array(target), Value::Array(change)) if change.iter().all(|one| one["name"].is_string()) => {
            for one in change {
                match target.iter_mut().find(|there| there["name"] == one["name"]) {
                    Some(there) => merge(there, one),
                    None => target.push(one.clone()),
                }
            }
        }
        (target, change) => *target = change.clone(),
    }
}

fn status(code: u16, reason: &str) -> Answer {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code});
    json_answer(code, &body)
}

fn json_answer(code: u16, body: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync());
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer
}
