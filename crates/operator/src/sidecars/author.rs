//! What of an MCPServer its author wrote, as far as that decides what he has to be allowed to do.

use std::collections::BTreeSet;

use serde_json::Value;

use super::injection::is_going;
use super::names::REGISTRATION_SECRET;
use super::parts::{Parts, Subject};
use super::prerequisites::Login;
use super::put::is_registrations_own;
use super::record::Read;
use super::settings::{AdminInPods, Policy, Registration, SidecarMode};
use super::strip::strip;
use super::tree::text;

/// An MCPServer without what was injected into it, for judging what its author may ask for.
///
/// The annotation that says what was injected can be written by anybody, so it is believed only as far as it is
/// about something that this policy injects, content and all. [`super::restore_server`] believes more of it, which
/// is right for taking out what an earlier policy has put in.
pub fn written_by_author(object: &Value, namespace: &str, policy: &Policy) -> Value {
    let mut written = object.clone();
    if is_going(object) {
        return written;
    }
    let Read::Known(injection) = Read::object(object) else { return written };
    let server = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let possible = possible(namespace, server, policy);
    strip(&mut written, Some(&injection.only(&possible)), true);
    written
}

/// Everything that a policy can make of one server, whatever else its namespace and template say.
fn possible(namespace: &str, server: &str, policy: &Policy) -> Vec<Parts> {
    let logins = match (policy.registration, policy.mode, policy.admin_in_pods) {
        (Registration::Operator, ..) => &[Login::Nothing][..],
        (Registration::Pod, SidecarMode::Builtin, _) => &[Login::RegistrationSecret],
        (Registration::Pod, SidecarMode::External, AdminInPods::Forbidden) => &[Login::Nothing],
        (Registration::Pod, SidecarMode::External, AdminInPods::WhereLegacy) => {
            &[Login::AdminConfigMap, Login::AdminSecret]
        }
        (Registration::Pod, SidecarMode::External, AdminInPods::Allowed) => {
            &[Login::AdminConfigMap, Login::AdminSecret, Login::Nothing]
        }
    };
    let mut all = Vec::new();
    for login in logins {
        for (root, port_taken) in [(false, false), (false, true), (true, false), (true, true)] {
            let subject = Subject { namespace, server, root, native: false, port_taken };
            all.push(Parts::new(&subject, policy, *login));
        }
    }
    all
}

/// Secrets that mounts of an author's own reach by the name of a volume that comes with the sidecars, each with the
/// path where they do: in an MCPServer without what was injected ([`written_by_author`]). He has to be allowed to
/// read them, as if he had written the volume.
///
/// A volume of that name that he has written is not meant; a Secret that it names is found there.
pub fn secrets_reached(written: &Value) -> Vec<(String, String)> {
    let spec = written.get("spec").unwrap_or(&Value::Null);
    let pod = spec.pointer("/podTemplateSpec/spec").unwrap_or(&Value::Null);
    // A volume with a directive may be none when it counts.
    let own: BTreeSet<&str> = entries(pod, "volumes")
        .filter(|(_, volume)| volume.get("$patch").is_none())
        .filter_map(|(_, volume)| text(volume, "name"))
        .collect();
    let mut found = Vec::new();
    let mut reach = |name: Option<&str>, at: String| {
        if name.is_some_and(|name| is_registrations_own(name) && !own.contains(name)) {
            found.push((at, REGISTRATION_SECRET.to_owned()));
        }
    };
    for (index, volume) in entries(spec, "volumes") {
        reach(text(volume, "name"), format!("spec.volumes[{index}].name"));
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (at, container) in entries(pod, list) {
            for (index, mount) in entries(container, "volumeMounts") {
                let path = format!("spec.podTemplateSpec.spec.{list}[{at}].volumeMounts[{index}].name");
                reach(text(mount, "name"), path);
            }
        }
    }
    found
}

fn entries<'v>(value: &'v Value, list: &str) -> impl Iterator<Item = (usize, &'v Value)> + use<'v> {
    value.get(list).and_then(Value::as_array).into_iter().flatten().enumerate()
}
