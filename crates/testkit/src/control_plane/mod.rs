//! A Kubernetes API server of the test's own: etcd, kube-apiserver and, for some controllers,
//! kube-controller-manager, which `hack/k8s/build` makes.
//!
//! They listen on 127.0.0.1 alone, keep everything in one folder that goes away with them, and end with the
//! process that started them, however that one ends. There is no node: nothing runs pods, and nobody writes
//! the status of a Deployment but the test.
//!
//! Most tests take [`shared`], one for all tests of a process, and a [`ControlPlane::namespace`] of their own.

mod access;
mod assets;
mod folder;
mod guarded;
mod programs;
mod sharing;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use self::access::Access;
pub use self::assets::Assets;
use self::folder::Folder;
use self::guarded::Guarded;
use self::programs::{HeldPort, Layout};
pub use self::sharing::{shared, shared_with_controllers, skip};
use crate::raw::free_port;

/// How long a program may take until it is ready. Only a hang, or a machine with much else to do, takes long.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a program that is not ready yet is asked again.
const BETWEEN_LOOKS: Duration = Duration::from_millis(25);
/// How many starts of etcd may meet with a port that somebody took in the meantime.
const STARTS: usize = 5;

/// What runs beside the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The controllers of kube-controller-manager, by their names there. None: it isn't started.
    ///
    /// The default deletes what belongs to something deleted, finishes the deletion of namespaces and fills
    /// the cluster roles `view`, `edit` and `admin`. It leaves Deployments and all else as the test made them.
    pub controllers: Vec<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        Self { controllers: vec!["garbagecollector", "namespace", "clusterrole-aggregation"] }
    }
}

/// A running control plane. It ends when this is dropped, and when the process ends or is killed.
pub struct ControlPlane {
    // Fields are dropped in this order: each program before those it talks to, the folder last.
    controllers: Mutex<Option<Guarded>>,
    api_server: Mutex<Option<Guarded>>,
    _etcd: Guarded,
    layout: Layout,
    options: Options,
    access: Access,
    port: HeldPort,
    folder: Folder,
}

impl ControlPlane {
    /// Starts one and waits until its API server is ready. Where the assets have no
    /// kube-controller-manager, none of the controllers run: see [`Self::runs_controllers`].
    ///
    /// # Panics
    /// When a program ends or isn't ready in time, with the last lines of its log.
    pub async fn start(assets: &Assets, options: Options) -> Self {
        let folder = Folder::create(!assets.etcd_skips_fsync());
        let (etcd, etcd_url) = start_etcd(assets, folder.path()).await;
        let port = HeldPort::take();
        let access = Access::prepare(folder.path(), port.number());
        let layout = Layout { assets: assets.clone(), folder: folder.path().to_owned(), etcd_url };
        let control_plane = Self {
            controllers: Mutex::new(None),
            api_server: Mutex::new(None),
            _etcd: etcd,
            layout,
            options,
            access,
            port,
            folder,
        };
        control_plane.start_api_server().await;
        control_plane.restart_controllers();
        control_plane
    }

    /// Where the API server is: `https://127.0.0.1:PORT`, with no slash at its end.
    pub fn url(&self) -> &str {
        self.access.url()
    }

    /// The certificate authority of the API server, PEM.
    pub fn ca_pem(&self) -> &str {
        self.access.ca_pem()
    }

    /// The bearer token of a user who may do everything (group `system:masters`).
    pub fn admin_token(&self) -> &str {
        self.access.token_for("admin")
    }

    /// The bearer token of a user: `admin`, or one who may do nothing until RBAC says so: `nobody`, and `u0`
    /// to `u9`, who are in the group `testers`.
    ///
    /// # Panics
    /// When there is no such user.
    pub fn token_for(&self, user: &str) -> &str {
        self.access.token_for(user)
    }

    /// A bearer token of a service account that exists: user `system:serviceaccount:NAMESPACE:NAME` with its
    /// groups, good for an hour.
    ///
    /// # Panics
    /// When the API server doesn't give one.
    pub async fn service_account_token(&self, namespace: &str, name: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let (status, answer) = self.request("POST", &path, "application/json", &request.to_string()).await;
        match answer.pointer("/status/token").and_then(Value::as_str) {
            Some(token) if status == 201 => token.to_owned(),
            _ => panic!("no token for service account {namespace}/{name}: {status} {answer}"),
        }
    }

    /// A kubeconfig file of the user `admin`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_with(self.admin_token())
    }

    /// A kubeconfig file with this bearer token.
    pub fn kubeconfig_with(&self, token: &str) -> PathBuf {
        self.access.kubeconfig(self.folder.path(), token)
    }

    /// A folder that goes away with the control plane.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Sends a request as `admin` and returns the status code and the body: JSON, or a string when it is none.
    ///
    /// An empty `content_type` sends no body.
    ///
    /// # Panics
    /// When the API server can't be reached.
    pub async fn request(&self, method: &str, path: &str, content_type: &str, body: &str) -> (u16, Value) {
        self.request_as(self.admin_token(), method, path, content_type, body).await
    }

    /// Sends a request with this bearer token; else as [`Self::request`].
    ///
    /// # Panics
    /// When the API server can't be reached.
    pub async fn request_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        content_type: &str,
        body: &str,
    ) -> (u16, Value) {
        let (status, answer, _) = self.request_with_warnings(token, method, path, content_type, body).await;
        (status, answer)
    }

    /// The same, and the warnings that came with the answer.
    ///
    /// # Panics
    /// When the API server can't be reached.
    pub async fn request_with_warnings(
        &self,
        token: &str,
        method: &str,
        path: &str,
        content_type: &str,
        body: &str,
    ) -> (u16, Value, Vec<String>) {
        match self.access.request(token, method, path, content_type, body).await {
            Ok(answer) => answer,
            Err(e) => panic!("{method} {path}: {e}\n{}", self.api_server_log()),
        }
    }

    /// Makes a namespace that no other test has and returns its name.
    ///
    /// # Panics
    /// When the API server doesn't make it.
    pub async fn namespace(&self) -> String {
        let name = fresh_namespace_name();
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let (status, answer) =
            self.request("POST", "/api/v1/namespaces", "application/json", &object.to_string()).await;
        assert_eq!(status, 201, "namespace {name}: {answer}");
        name
    }

    /// Whether kube-controller-manager runs with the controllers that were asked for.
    pub fn runs_controllers(&self) -> bool {
        locked(&self.controllers).is_some()
    }

    /// Starts the controllers afresh, if there are any. The garbage collector looks for new kinds every 30
    /// seconds and when it starts: call this after CRDs were installed whose objects own others.
    pub fn restart_controllers(&self) {
        let mut running = locked(&self.controllers);
        *running = None;
        let Some(program) = &self.layout.assets.controller_manager else { return };
        if !self.options.controllers.is_empty() {
            let kubeconfig = self.kubeconfig();
            let arguments = self.layout.controller_manager(&kubeconfig, &self.options.controllers);
            *running = Some(Guarded::start(program, &arguments, &self.layout.log("kube-controller-manager")));
        }
    }

    /// The process of the API server.
    ///
    /// # Panics
    /// When it is stopped.
    pub fn api_server_pid(&self) -> u32 {
        locked(&self.api_server).as_ref().expect("a running API server").pid()
    }

    /// Kills the API server. What it stored stays, its port stays taken: connections to it are refused.
    pub fn stop_api_server(&self) {
        *locked(&self.api_server) = None;
    }

    /// Starts the API server again where it was and waits until it is ready. Does nothing when it runs.
    ///
    /// # Panics
    /// When it ends or isn't ready in time, with the last lines of its log.
    pub async fn start_api_server(&self) {
        {
            let mut running = locked(&self.api_server);
            if running.is_none() {
                let arguments = self.layout.api_server(&self.access, self.port.number());
                let log = self.layout.log("kube-apiserver");
                *running = Some(Guarded::start(&self.layout.assets.api_server, &arguments, &log));
            }
        }
        let ready = async {
            loop {
                if let Ok((200, ..)) = self.access.request(self.admin_token(), "GET", "/readyz", "", "").await
                {
                    return;
                }
                if locked(&self.api_server).as_mut().is_none_or(Guarded::has_ended) {
                    panic!("kube-apiserver ended\n{}", self.api_server_log());
                }
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
        };
        if tokio::time::timeout(PATIENCE, ready).await.is_err() {
            panic!("kube-apiserver is not ready after {PATIENCE:?}\n{}", self.api_server_log());
        }
    }

    /// Kills the API server and starts it again: same address, same certificate, same objects.
    ///
    /// # Panics
    /// As [`Self::start_api_server`].
    pub async fn restart_api_server(&self) {
        self.stop_api_server();
        self.start_api_server().await;
    }

    /// The last lines that the API server wrote.
    pub fn api_server_log(&self) -> String {
        guarded::last_lines(&self.layout.log("kube-apiserver"))
    }
}

/// A name for a namespace that nobody has: `t-` and twelve hexadecimal digits.
pub fn fresh_namespace_name() -> String {
    format!("t-{}", access::random_hex(6))
}

/// Starts etcd and waits until it says it is healthy. Only its port is not held until it has it.
async fn start_etcd(assets: &Assets, folder: &Path) -> (Guarded, String) {
    for attempt in 0..STARTS {
        let (port, peer_port) = (free_port(), free_port());
        let log = folder.join(format!("etcd-{attempt}.log"));
        let arguments = programs::etcd(&folder.join(format!("etcd-{attempt}")), port, peer_port, assets);
        let mut etcd = Guarded::start(&assets.etcd, &arguments, &log);
        let healthy = async {
            while !etcd.has_ended() {
                if programs::answers(port, "/health").await {
                    return true;
                }
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            false
        };
        match tokio::time::timeout(PATIENCE, healthy).await {
            Ok(true) if !etcd.has_ended() => return (etcd, format!("http://127.0.0.1:{port}")),
            Err(_) => panic!("etcd is not healthy after {PATIENCE:?}\n{}", guarded::last_lines(&log)),
            Ok(_) if guarded::whole_log(&log).contains("address already in use") => {}
            Ok(_) => panic!("etcd ended\n{}", guarded::last_lines(&log)),
        }
    }
    panic!("etcd found its ports taken {STARTS} times in a row")
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
