//! What is injected looks like this.

mod registration;

use serde_json::{Value, json};

use super::config::Amounts;
use super::names::{
    HELPER_CONFIG, HELPER_CONFIG_DIR, REGISTRATION_SECRET, REGISTRATION_STATE_VOLUME, SERVER_CLIENT_DIR,
    SERVER_CLIENT_VARIABLE, SERVER_SVID_DIR, SERVER_SVID_VARIABLE, SHARED_VOLUME, SOCKET_DIR, SOCKET_VOLUME,
    SPIFFE_HELPER, SVID_DIR, SVID_VOLUME, client_secret,
};
use super::prerequisites::Login;
use super::settings::{Policy, Registration, SidecarMode, Socket};

/// User and group of sidecars in a pod whose others are root. Elsewhere the pod's own user is theirs, by which
/// each can read what the other writes.
const ID: u32 = 1000;
/// Mode of files of mounted Secrets: for the pod's group.
const SECRET_MODE: u32 = 0o440;
/// File in which a built-in helper keeps the keys by which JWT-SVIDs are verified.
const JWT_BUNDLE_FILE: &str = "/opt/jwt_bundle.json";

/// Whose pod it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) namespace: &'a str,
    /// Name of the MCPServer.
    pub(super) server: &'a str,
    /// The pod runs as root unless a container says otherwise.
    pub(super) root: bool,
    /// The sidecars become init containers that go on running.
    pub(super) native: bool,
    /// The port that the registration would answer on is another container's.
    pub(super) port_taken: bool,
}

/// Everything that is injected, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) containers: Vec<Value>,
    pub(super) volumes: Vec<Value>,
    /// Mounts of the MCP server's container.
    pub(super) mounts: Vec<Value>,
    /// Variables of the MCP server's container.
    pub(super) env: Vec<Value>,
}

impl Parts {
    /// The parts for one pod.
    pub(super) fn new(subject: &Subject<'_>, policy: &Policy, login: Login) -> Self {
        let mut containers = vec![helper(subject, policy)];
        if policy.registration == Registration::Pod {
            containers.push(registration::container(subject, policy, login));
        }
        let mount = |volume: &str, path: &str| json!({"name": volume, "mountPath": path, "readOnly": true});
        Self {
            containers,
            volumes: volumes(subject, policy),
            mounts: vec![mount(SVID_VOLUME, SERVER_SVID_DIR), mount(SHARED_VOLUME, SERVER_CLIENT_DIR)],
            env: vec![
                json!({"name": SERVER_SVID_VARIABLE, "value": SERVER_SVID_DIR}),
                json!({"name": SERVER_CLIENT_VARIABLE, "value": SERVER_CLIENT_DIR}),
            ],
        }
    }
}

/// The container that keeps SVIDs in files. It has no startup probe: the images have no shell, and whoever needs
/// its files waits for them.
fn helper(subject: &Subject<'_>, policy: &Policy) -> Value {
    let config = format!("{HELPER_CONFIG_DIR}/helper.conf");
    let images = &policy.config.images;
    let (image, command) = match policy.mode {
        SidecarMode::External => {
            (&images.spiffe_helper, json!(["/spiffe-helper", format!("-config={config}"), "run"]))
        }
        SidecarMode::Builtin => (
            &images.builtin,
            json!([
                "/skep",
                "sidecar",
                "spiffe-helper",
                "--config",
                config,
                "--jwt-bundle-file",
                JWT_BUNDLE_FILE
            ]),
        ),
    };
    let mut container = json!({
        "name": SPIFFE_HELPER,
        "image": image,
        "imagePullPolicy": policy.config.image_pull_policy.as_str(),
        "command": command,
        "resources": resources(&policy.config.resources.spiffe_helper),
        "securityContext": security(subject),
        "volumeMounts": [
            {"name": SOCKET_VOLUME, "mountPath": SOCKET_DIR, "readOnly": true},
            {"name": HELPER_CONFIG, "mountPath": HELPER_CONFIG_DIR, "readOnly": true},
            {"name": SVID_VOLUME, "mountPath": SVID_DIR},
        ],
    });
    if subject.native {
        add(&mut container, "restartPolicy", json!("Always"));
    }
    container
}

fn volumes(subject: &Subject<'_>, policy: &Policy) -> Vec<Value> {
    let config = &policy.config.volumes;
    let memory = |name: &str, limit: Option<&String>| {
        let mut volume = json!({"name": name, "emptyDir": {"medium": "Memory"}});
        if let (Some(limit), Some(directory)) = (limit, volume.get_mut("emptyDir")) {
            add(directory, "sizeLimit", json!(limit));
        }
        volume
    };
    let secret = |name: &str, secret: &str, optional: bool| json!({"name": name, "secret": {"secretName": secret, "defaultMode": SECRET_MODE, "optional": optional}});
    let shared = match policy.registration {
        Registration::Pod => memory(SHARED_VOLUME, config.shared_size.as_ref()),
        // The pod waits until the operator has registered the client.
        Registration::Operator => secret(SHARED_VOLUME, &client_secret(subject.server), false),
    };
    let socket = match policy.config.socket(policy.socket) {
        Socket::HostPath => json!({"name": SOCKET_VOLUME, "hostPath": {"path": config.socket.path}}),
        Socket::Csi => {
            json!({"name": SOCKET_VOLUME, "csi": {"driver": config.socket.driver, "readOnly": true}})
        }
    };
    let mut volumes = vec![
        shared,
        socket,
        json!({"name": HELPER_CONFIG, "configMap": {"name": HELPER_CONFIG}}),
        memory(SVID_VOLUME, config.svid_size.as_ref()),
    ];
    if policy.registration == Registration::Pod && policy.mode == SidecarMode::Builtin {
        // Optional, so that the sidecar starts and says itself what is missing.
        volumes.push(secret(REGISTRATION_SECRET, REGISTRATION_SECRET, true));
        volumes.push(memory(REGISTRATION_STATE_VOLUME, None));
    }
    volumes
}

/// What the Pod Security level `restricted` asks for, and a root file system that can't be written to.
fn security(subject: &Subject<'_>) -> Value {
    let mut context = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    if subject.root {
        add(&mut context, "runAsUser", json!(ID));
        add(&mut context, "runAsGroup", json!(ID));
    }
    context
}

fn resources(amounts: &Amounts) -> Value {
    let mut resources = json!({});
    for (key, amounts) in [("requests", &amounts.requests), ("limits", &amounts.limits)] {
        if !amounts.is_empty() {
            add(&mut resources, key, json!(amounts));
        }
    }
    resources
}

fn add(value: &mut Value, key: &str, more: Value) {
    if let Some(map) = value.as_object_mut() {
        map.insert(key.to_owned(), more);
    }
}
