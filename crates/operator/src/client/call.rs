//! What a request asks of the API server, in the words of RBAC, and how many there were.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use skep_runtime::metrics::Metrics;

/// Resources that may become label values. There are some thirty.
const RESOURCE_LABELS: usize = 64;

/// A request to the API server, as RBAC judges it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`; for a path that is
    /// no resource the HTTP method in lower case.
    pub verb: &'static str,
    /// API group; empty for the core group.
    pub group: String,
    /// Plural of the kind; empty for a path that is no resource, such as discovery.
    pub resource: String,
    /// Such as `status`; empty when it is the object itself.
    pub subresource: String,
    /// Namespace; empty when it is about all of them or none.
    pub namespace: String,
    /// Name of the object; empty when it is about many, or a new one.
    pub name: String,
    /// A server-side apply. It needs the right to create besides that to patch.
    pub apply: bool,
    /// Path and query.
    pub path: String,
}

impl Call {
    /// Reads it off a request.
    pub fn of(parts: &Parts) -> Self {
        let path = parts.uri.path();
        let query = parts.uri.query().unwrap_or_default();
        let apply = parts
            .headers
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with("application/apply-patch"));
        let full = parts.uri.path_and_query().map_or(path, |full| full.as_str()).to_owned();
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let (group, rest) = match segments.as_slice() {
            ["api", _version, rest @ ..] => ("", rest),
            ["apis", group, _version, rest @ ..] => (*group, rest),
            _ => ("", [].as_slice()),
        };
        let (namespace, rest) = match rest {
            // A namespace itself and what hangs below it.
            ["namespaces"] | ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => ("", rest),
            ["namespaces", namespace, rest @ ..] => (*namespace, rest),
            rest => ("", rest),
        };
        let at = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
        let (resource, name, subresource) = (at(0), at(1), at(2));
        let watch = query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1" | "watch"));
        let verb = verb(&parts.method, !resource.is_empty(), !name.is_empty(), watch);
        Self {
            verb,
            group: group.to_owned(),
            resource,
            subresource,
            namespace: namespace.to_owned(),
            name,
            apply,
            path: full,
        }
    }

    /// True when it changes something, or may.
    pub fn is_write(&self) -> bool {
        matches!(self.verb, "create" | "update" | "patch" | "delete" | "deletecollection" | "post" | "put")
    }

    /// True when the answer goes on for as long as it is wanted.
    pub fn is_stream(&self) -> bool {
        self.verb == "watch" || matches!(self.subresource.as_str(), "log" | "attach" | "exec" | "portforward")
    }

    /// Resource and subresource, as in a rule: `pods`, `pods/proxy`.
    pub fn rule_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

fn verb(method: &Method, resource: bool, named: bool, watch: bool) -> &'static str {
    match (method, resource, named) {
        (&Method::GET | &Method::HEAD, true, _) if watch => "watch",
        (&Method::GET | &Method::HEAD, true, true) => "get",
        (&Method::GET | &Method::HEAD, true, false) => "list",
        (&Method::GET | &Method::HEAD, false, _) => "get",
        (&Method::POST, true, _) => "create",
        (&Method::POST, false, _) => "post",
        (&Method::PUT, true, _) => "update",
        (&Method::PUT, false, _) => "put",
        (&Method::PATCH, ..) => "patch",
        (&Method::DELETE, true, false) => "deletecollection",
        (&Method::DELETE, ..) => "delete",
        // Nothing else is ever sent; were it, it may change something.
        _ => "post",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    verb: &'static str,
    resource: String,
    code: String,
}

/// Counts calls by verb, resource and status code.
#[derive(Debug, Clone, Default)]
pub struct ApiCalls {
    calls: Family<Labels, Counter>,
    resources: Arc<Mutex<HashSet<String>>>,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Answered(StatusCode),
    /// No answer: the connection, or the time.
    Broken,
    /// Never sent: the gate is closed.
    Refused,
}

impl ApiCalls {
    /// Registers the counter `skep_operator_api_requests_total`.
    pub fn register(registry: &Metrics) -> Self {
        let calls = Self::default();
        registry.register(
            "skep_operator_api_requests",
            "Requests to the API server, by verb, resource and status code; code is error when there was no answer and refused when the operator was not the leader",
            calls.calls.clone(),
        );
        calls
    }

    pub(super) fn ended(&self, call: &Call, end: End) {
        let code = match end {
            End::Answered(status) => status.as_str().to_owned(),
            End::Broken => "error".to_owned(),
            End::Refused => "refused".to_owned(),
        };
        let labels = Labels { verb: call.verb, resource: self.resource(call), code };
        self.calls.get_or_create(&labels).inc();
    }

    /// Paths are made by this program alone, but a label is bounded whoever makes them.
    fn resource(&self, call: &Call) -> String {
        if call.resource.is_empty() {
            return "none".to_owned();
        }
        let resource = call.rule_resource();
        let mut known = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&resource) || known.len() < RESOURCE_LABELS {
            known.insert(resource.clone());
            return resource;
        }
        "other".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn call(method: &str, uri: &str) -> Call {
        Call::of(&Request::builder().method(method).uri(uri).body(()).expect("a request").into_parts().0)
    }

    #[test]
    fn a_request_is_read_as_rbac_reads_it() {
        for (method, uri, expected) in [
            ("GET", "/api/v1/namespaces/a/pods/p", "get /pods a p"),
            ("GET", "/api/v1/pods?watch=true&resourceVersion=1", "watch /pods  "),
            ("GET", "/api/v1/pods?labelSelector=watch%3Dtrue", "list /pods  "),
            ("GET", "/api/v1/namespaces/a", "get /namespaces  a"),
            ("GET", "/api/v1/namespaces?watch=1", "watch /namespaces  "),
            ("GET", "/api/v1/namespaces/a/status", "get /namespaces/status  a"),
            ("PATCH", "/apis/apps/v1/namespaces/a/deployments/d?force=true", "patch apps/deployments a d"),
            (
                "PATCH",
                "/apis/toolhive.stacklok.dev/v1beta1/namespaces/a/mcpservers/s/status",
                "patch toolhive.stacklok.dev/mcpservers/status a s",
            ),
            ("POST", "/apis/events.k8s.io/v1/namespaces/a/events", "create events.k8s.io/events a "),
            (
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/l",
                "update coordination.k8s.io/leases a l",
            ),
            ("DELETE", "/api/v1/namespaces/a/services/s", "delete /services a s"),
            ("DELETE", "/api/v1/namespaces/a/services", "deletecollection /services a "),
            ("GET", "/api/v1/namespaces/a/pods/p:9464/proxy/status", "get /pods/proxy a p:9464"),
            ("GET", "/apis", "get /  "),
            ("GET", "/apis/policy/v1", "get policy/  "),
            ("GET", "/version", "get /  "),
        ] {
            let call = call(method, uri);
            let read = format!(
                "{} {}/{} {} {}",
                call.verb,
                call.group,
                call.rule_resource(),
                call.namespace,
                call.name
            );
            assert_eq!(read, expected, "{method} {uri}");
            assert_eq!(call.is_write(), method != "GET", "{method} {uri}");
        }
    }

    #[test]
    fn labels_stay_bounded_whatever_is_called() {
        let registry = Metrics::new();
        let calls = ApiCalls::register(&registry);
        for number in 0..1000 {
            calls.ended(&call("GET", &format!("/api/v1/kind{number}")), End::Answered(StatusCode::OK));
        }
        let lines = registry.encode().lines().filter(|line| line.contains("api_requests_total{")).count();
        assert_eq!(lines, RESOURCE_LABELS + 1);
    }
}
