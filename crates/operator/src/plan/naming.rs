//! Names of workloads: what is made from one has to be a valid name, and nobody else's.

use skep_api::crd::{Kind, Object, Spec};
use skep_api::names;
use skep_api::runconfig::Transport;

use super::WorkloadName;
use super::findings::Findings;

/// Values of the label `app` on proxies' pods. That of a backend's pods is the MCPServer's name.
const APPS: [&str; 3] = ["mcpserver", "mcpremoteproxy", "virtualmcpserver"];

/// Judges the name: what is made from it has to be a valid name and nobody else's.
pub(super) fn check(object: &Object, findings: &mut Findings<'_>) {
    let name = object.metadata.name.as_str();
    let longest = match object.kind {
        Kind::MCPServer => names::SERVER_NAME_MAX,
        _ => names::REMOTE_PROXY_NAME_MAX,
    };
    let path = "metadata.name";
    if name.is_empty() {
        return;
    }
    if name.len() > longest {
        findings.error(path, "InvalidName", format!("The name has {} characters, and the names made from it have room for {longest}. Choose a shorter one.", name.len()));
    } else if !names::is_dns_label(name) {
        findings.error(path, "InvalidName", "Services are named after it, so it may have only lower-case letters, digits and `-`, and has to begin and end with a letter or a digit.");
    } else if has_service_of_its_name(object) && !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        // RFC 1035 §2.3.1; all other Services have something before the name.
        findings.error(
            path,
            "InvalidName",
            "A Service has this very name, so it has to begin with a lower-case letter.",
        );
    }
    if object.kind == Kind::MCPServer && APPS.contains(&name) {
        let message = format!(
            "The pods of `app={name}` are those of all proxies, and the MCP server's own would be taken for one of them. Choose another name."
        );
        findings.error(path, "NameCollision", message);
    }
    for other in &findings.world.workloads {
        if other.kind == object.kind && other.name == name {
            break;
        }
        if let Some(shared) = shared((object.kind, name), (other.kind, &other.name)) {
            let message = format!(
                "The {} `{}` is older and has the {} `{}` already. Choose another name.",
                other.kind, other.name, shared.0, shared.1
            );
            findings.error(path, "NameCollision", message);
            break;
        }
    }
}

fn has_service_of_its_name(object: &Object) -> bool {
    matches!(&object.spec, Spec::Server(server) if server.transport != Transport::Stdio)
}

/// True when two workloads of one namespace would make objects of the same kind and name. The younger one
/// of them is refused. A workload does not collide with itself.
pub fn collide(a: &WorkloadName, b: &WorkloadName) -> bool {
    a != b && shared((a.kind, &a.name), (b.kind, &b.name)).is_some()
}

/// An object that both workloads would make.
fn shared(mine: (Kind, &str), theirs: (Kind, &str)) -> Option<(&'static str, String)> {
    let theirs = generated(theirs.0, theirs.1);
    generated(mine.0, mine.1).into_iter().find(|made| theirs.contains(made))
}

/// Kind and name of the objects that follow from a name, as far as they can collide.
fn generated(kind: Kind, name: &str) -> Vec<(&'static str, String)> {
    let mut made = vec![
        ("Deployment", name.to_owned()),
        ("ConfigMap", names::runconfig(name)),
        ("ConfigMap", names::inline_authz(name)),
    ];
    if kind == Kind::MCPServer {
        made.extend([
            ("StatefulSet", name.to_owned()),
            ("Service", name.to_owned()),
            ("Service", names::server_service(name)),
            ("Service", names::backend_service(name)),
            ("Service", names::backend_headless_service(name)),
            ("ServiceAccount", names::server_runner(name)),
            ("ServiceAccount", names::backend_account(name)),
            ("NetworkPolicy", names::backend_policy(name)),
        ]);
    } else {
        made.extend([
            ("Service", names::remote_proxy_service(name)),
            ("ServiceAccount", names::remote_proxy_runner(name)),
            ("NetworkPolicy", name.to_owned()),
        ]);
    }
    made
}
