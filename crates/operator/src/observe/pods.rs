//! Facts about pods, from their JSON.

use std::net::IpAddr;

use serde_json::Value;

/// Reasons for waiting that go away only when somebody does something.
const HOPELESS: [&str; 3] = ["CrashLoopBackOff", "CreateContainerError", "InvalidImageName"];
/// Reasons for waiting that say nothing more than that the pod is starting.
const USUAL: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// What the pods of one workload add up to. Those that are being deleted don't count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pods {
    /// Running, whether ready or not.
    pub running: u32,
    /// Ready, which are running too.
    pub ready: u32,
    /// Not running yet.
    pub pending: u32,
    /// Failed for a reason that does not go away by itself.
    pub failed: u32,
    /// Why, of the first of those that failed.
    pub failure: Option<String>,
    /// What the first pod that is not running waits for, when that is more than its turn.
    pub waiting: Option<String>,
}

/// A pod that can be asked something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodAddress {
    /// Name of the pod.
    pub pod: String,
    /// Its address.
    pub ip: IpAddr,
}

enum State {
    Ready,
    Running,
    Pending(Option<String>),
    Failed(String),
    /// Being deleted, or done.
    Gone,
}

impl Pods {
    /// Counts pods. The order in which they come does not matter.
    pub fn of<'a>(pods: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut counted = Self::default();
        for pod in by_name(pods) {
            match state(pod) {
                State::Gone => {}
                State::Ready => {
                    counted.running += 1;
                    counted.ready += 1;
                }
                State::Running => counted.running += 1,
                State::Pending(reason) => {
                    counted.pending += 1;
                    counted.waiting = counted.waiting.or(reason);
                }
                State::Failed(reason) => {
                    counted.failed += 1;
                    counted.failure.get_or_insert(reason);
                }
            }
        }
        counted
    }

    /// All that count.
    pub fn total(&self) -> u32 {
        self.running + self.pending + self.failed
    }

    /// The pods that run and have an address, by name: those that can be asked for a report.
    pub fn addresses<'a>(pods: impl IntoIterator<Item = &'a Value>) -> Vec<PodAddress> {
        by_name(pods)
            .into_iter()
            .filter(|pod| matches!(state(pod), State::Ready | State::Running))
            .filter_map(|pod| {
                let ip = pod.pointer("/status/podIP")?.as_str()?.parse().ok()?;
                Some(PodAddress { pod: name(pod).to_owned(), ip })
            })
            .collect()
    }
}

fn by_name<'a>(pods: impl IntoIterator<Item = &'a Value>) -> Vec<&'a Value> {
    let mut pods: Vec<&Value> = pods.into_iter().collect();
    pods.sort_by_key(|pod| name(pod));
    pods
}

fn name(pod: &Value) -> &str {
    pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

fn state(pod: &Value) -> State {
    if pod.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null()) {
        return State::Gone;
    }
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let phase = text("/status/phase").unwrap_or_default();
    if phase == "Succeeded" {
        return State::Gone;
    }
    if let Some(reason) = containers(pod).find_map(failure) {
        return State::Failed(reason);
    }
    match phase {
        "Failed" => State::Failed(text("/status/reason").unwrap_or("Failed").to_owned()),
        "Running" if condition(pod, "Ready").is_some_and(|condition| says(condition, "status", "True")) => {
            State::Ready
        }
        "Running" => State::Running,
        _ => State::Pending(containers(pod).find_map(waiting).or_else(|| unscheduled(pod))),
    }
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["/status/initContainerStatuses", "/status/containerStatuses"]
        .into_iter()
        .filter_map(|pointer| pod.pointer(pointer)?.as_array())
        .flatten()
}

fn failure(container: &Value) -> Option<String> {
    let text = |pointer: &str| container.pointer(pointer).and_then(Value::as_str);
    if let Some(reason) = text("/state/waiting/reason").filter(|reason| HOPELESS.contains(reason)) {
        return Some(reason.to_owned());
    }
    let code =
        container.pointer("/state/terminated/exitCode").and_then(Value::as_i64).filter(|code| *code != 0)?;
    let reason = text("/state/terminated/reason").filter(|reason| !reason.is_empty()).unwrap_or("Error");
    Some(format!("{reason} (exit code {code})"))
}

fn waiting(container: &Value) -> Option<String> {
    let reason = container.pointer("/state/waiting/reason")?.as_str()?;
    match reason {
        // The two take turns every few seconds and mean the same.
        "ErrImagePull" => Some("ImagePullBackOff".to_owned()),
        "" => None,
        reason if USUAL.contains(&reason) => None,
        reason => Some(reason.to_owned()),
    }
}

fn unscheduled(pod: &Value) -> Option<String> {
    let scheduled = condition(pod, "PodScheduled")?;
    let reason = scheduled.get("reason").and_then(Value::as_str).filter(|reason| !reason.is_empty())?;
    says(scheduled, "status", "False").then(|| reason.to_owned())
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = pod.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|condition| says(condition, "type", kind))
}

fn says(value: &Value, field: &str, text: &str) -> bool {
    value.get(field).and_then(Value::as_str) == Some(text)
}
