//! The built-in sidecars as processes, with the files and the environment of the pod that the webhook makes:
//! a SPIRE agent on one side, a Keycloak on the other, and in the end a proxy that takes the server's token.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use skep_operator::sidecars::names::{CLIENT_REGISTRATION, SPIFFE_HELPER};
use skep_operator::sidecars::{Policy, SidecarMode, Surroundings, default_helper_config, mutate_server};
use skep_testkit::keycloak::FakeKeycloak;
use skep_testkit::spire::{Entry, FakeAgent};
use skep_testkit::{McpBackend, free_port};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::harness::http::{call_tool, client, get};
use crate::harness::output::Output;
use crate::harness::{eventually, skep};

const REALM: &str = "agents";
const SPIFFE_ID: &str = "spiffe://example.org/ns/team/sa/tools-sa";
/// Audience of the proxy in front of another server.
const PROXY: &str = "https://proxy.example.com/mcp";
/// User and group of the pod, as the operator sets them.
const POD: u32 = 1000;
/// Somebody else.
const OTHER: u32 = 2000;

/// The folders of a pod's volumes, and what the webhook put into its template.
struct Pod {
    folder: TempDir,
    binary: PathBuf,
    containers: BTreeMap<String, Value>,
    environments: BTreeMap<String, String>,
    /// Processes can be another user's.
    root: bool,
}

impl Pod {
    fn new(agent: &FakeAgent, keycloak: &FakeKeycloak, credentials: &[(&str, &str)]) -> Self {
        let environments = BTreeMap::from([
            ("KEYCLOAK_URL".to_owned(), keycloak.url()),
            ("KEYCLOAK_REALM".to_owned(), REALM.to_owned()),
        ]);
        let around = Surroundings {
            environments: Some(environments.clone()),
            helper_config: Some(["helper.conf".to_owned()].into()),
            registration_secret: Some(credentials.iter().map(|(key, _)| (*key).to_owned()).collect()),
            ..Surroundings::default()
        };
        let policy = Policy { default_on: true, mode: SidecarMode::Builtin, ..Policy::default() };
        let server = json!({
            "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServer",
            "metadata": {"name": "tools", "namespace": "team"}, "spec": {"image": "server:1"},
        });
        let mutated = mutate_server(&server, "team", &policy, &around);
        assert_eq!(mutated.warnings, Vec::<String>::new());
        let list = &mutated.result["spec"]["podTemplateSpec"]["spec"]["containers"];
        let named = |one: &Value| (one["name"].as_str().unwrap().to_owned(), one.clone());
        let containers = list.as_array().unwrap().iter().map(named).collect();

        let folder = tempfile::tempdir().unwrap();
        // Whoever gets at a file here gets at it by the file's own mode.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = fs::metadata(folder.path()).unwrap().uid() == 0;
        let binary = folder.path().join("skep");
        fs::copy(skep::binary(), &binary).unwrap();
        let pod = Self { folder, binary, containers, environments, root };
        for volume in ["/opt", "/shared", "/var/lib/skep-registration"] {
            // An emptyDir belongs to the pod's group, and so does what is made in it.
            let path = pod.make(volume);
            if root {
                chown(&path, Some(0), Some(POD)).unwrap();
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(0o2777)).unwrap();
        }
        let socket = pod.make("/spiffe-workload-api").join("spire-agent.sock");
        std::os::unix::fs::symlink(agent.socket(), socket).unwrap();
        fs::set_permissions(agent.socket().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        let config = pod.make("/etc/spiffe-helper").join("helper.conf");
        fs::write(&config, pod.here(&default_helper_config(&keycloak.issuer(REALM)))).unwrap();
        pod.credentials(credentials);
        pod
    }

    /// A path of the pod, on this machine.
    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    fn make(&self, path: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The files of the Secret `keycloak-registration`, which only the pod's group may read.
    fn credentials(&self, files: &[(&str, &str)]) {
        let folder = self.make("/etc/skep/keycloak-registration");
        for (name, text) in files {
            let file = folder.join(name);
            fs::write(&file, text).unwrap();
            if self.root {
                chown(&file, Some(0), Some(POD)).unwrap();
                fs::set_permissions(&file, fs::Permissions::from_mode(0o440)).unwrap();
            }
        }
    }

    /// A text with the paths of the pod in it, with those of this machine.
    fn here(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for prefix in [
            "/opt",
            "/shared",
            "/var/lib/skep-registration",
            "/spiffe-workload-api",
            "/etc/spiffe-helper",
            "/etc/skep/",
        ] {
            text = text.replace(prefix, &format!("{}{prefix}", self.folder.path().display()));
        }
        text
    }

    /// The process of a container, as kubelet would start it.
    fn start(&self, container: &str, more: &[(&str, &str)]) -> Process {
        let spec = &self.containers[container];
        let words: Vec<String> = spec["command"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| self.here(word.as_str().unwrap()))
            .collect();
        assert_eq!(words[0], "/skep");
        let mut command = Command::new(&self.binary);
        command.args(&words[1..]).env_clear().stdin(Stdio::null()).current_dir(self.folder.path());
        for variable in spec["env"].as_array().into_iter().flatten() {
            let name = variable["name"].as_str().unwrap();
            if let Some(value) = variable["value"].as_str() {
                command.env(name, self.here(value));
            } else {
                let key = variable["valueFrom"]["configMapKeyRef"]["key"].as_str().unwrap();
                command.env(name, &self.environments[key]);
            }
        }
        command.envs(more.iter().copied()).env("RUST_LOG", "info");
        if self.root {
            command.uid(POD).gid(POD);
        }
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let log = Output::read(child.stderr.take().unwrap());
        Process { child, log }
    }

    fn helper(&self) -> Process {
        self.start(SPIFFE_HELPER, &[])
    }

    /// The registration, and where its health is served.
    fn registration(&self, more: &[(&str, &str)]) -> (Process, String) {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let mut all = vec![("HEALTH_ADDRESS", address.as_str()), ("REGISTRATION_INTERVAL_SECONDS", "1")];
        all.extend_from_slice(more);
        (self.start(CLIENT_REGISTRATION, &all), format!("http://{address}/readyz"))
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().filter(|text| !text.is_empty())
    }

    /// Waits until a file of the pod has a content of this kind.
    async fn file(&self, path: &str, wanted: impl Fn(&str) -> bool) -> String {
        eventually(path, async || self.read(path).filter(|text| wanted(text))).await
    }

    /// Whether a user can read a file of the pod.
    async fn can_read(&self, user: u32, path: &str) -> bool {
        let mut command = Command::new("/bin/cat");
        command.arg(self.path(path)).stdout(Stdio::null()).stderr(Stdio::null()).uid(user).gid(user);
        command.status().await.unwrap().success()
    }

    /// A token for the credentials that the server finds in its files.
    async fn token(&self, keycloak: &FakeKeycloak) -> Option<String> {
        let (id, secret) = (self.read("/shared/client-id.txt")?, self.read("/shared/client-secret.txt")?);
        let form = [("grant_type", "client_credentials"), ("client_id", &id), ("client_secret", &secret)];
        let answer = client().post(keycloak.token_url(REALM)).form(&form).send().await.ok()?;
        let body: Value = answer.json().await.ok()?;
        body["access_token"].as_str().map(str::to_owned)
    }
}

struct Process {
    child: Child,
    log: Output,
}

impl Process {
    /// Ends it as kubelet does, and gives its exit code.
    async fn end(mut self) -> Option<i32> {
        let id = self.child.id().unwrap().to_string();
        Command::new("/bin/kill").arg(&id).status().await.unwrap();
        tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await.unwrap().unwrap().code()
    }
}

async fn scene() -> (FakeAgent, FakeKeycloak) {
    let agent = FakeAgent::start("example.org").await;
    agent.entry(Entry::new(SPIFFE_ID));
    let keycloak = FakeKeycloak::start().await;
    keycloak.realm(REALM);
    keycloak.service_account(REALM, "registrar", "s3cret-of-registrar", &["manage-clients"]);
    (agent, keycloak)
}

const REGISTRAR: [(&str, &str); 2] = [("client-id", "registrar"), ("client-secret", "s3cret-of-registrar")];

/// Makes tokens of all clients that come later good for the proxy, as an administrator of the realm does it.
async fn allow_all_at_the_proxy(keycloak: &FakeKeycloak) {
    keycloak.admin("root", "toor");
    let form =
        [("grant_type", "password"), ("client_id", "admin-cli"), ("username", "root"), ("password", "toor")];
    let answer = client().post(keycloak.token_url("master")).form(&form).send().await.unwrap();
    let body: Value = answer.json().await.unwrap();
    let token = body["access_token"].as_str().unwrap();
    let realm = format!("{}/admin/realms/{REALM}", keycloak.url());
    let scope = json!({"name": "proxy", "protocol": "openid-connect", "protocolMappers": [{
        "name": "proxy", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
        "config": {"included.custom.audience": PROXY, "access.token.claim": "true"}}]});
    let made =
        client().post(format!("{realm}/client-scopes")).bearer_auth(token).json(&scope).send().await.unwrap();
    assert_eq!(made.status().as_u16(), 201);
    let location = made.headers()["location"].to_str().unwrap().to_owned();
    let id = location.rsplit('/').next().unwrap();
    let given = client()
        .put(format!("{realm}/default-default-client-scopes/{id}"))
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    assert!(given.status().is_success(), "{}", given.status());
}

/// A proxy that takes tokens of the realm which are meant for it.
async fn proxy(keycloak: &FakeKeycloak, backend: &McpBackend, folder: &Path) -> (Child, String, Output) {
    let port = free_port();
    let config = json!({
        "schema_version": "v0.1.0", "name": "tools", "transport": "streamable-http", "host": "127.0.0.1",
        "port": port, "remote_url": backend.mcp_url(),
        "oidc_config": {"Issuer": keycloak.issuer(REALM), "Audience": PROXY, "AllowPrivateIP": true,
            "InsecureAllowHTTP": true, "ResourceURL": format!("http://127.0.0.1:{port}/mcp")},
    });
    fs::write(folder.join("runconfig.json"), config.to_string()).unwrap();
    let mut command = skep::command(folder, ["proxy", "run", "--egress-loopback", "--drain-pre-stop=0"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = Output::read(child.stderr.take().unwrap());
    log.line_with("the proxy is up").await;
    (child, format!("http://127.0.0.1:{port}/mcp"), log)
}

#[tokio::test]
async fn a_server_reads_its_credentials_and_a_proxy_that_trusts_the_realm_lets_it_in() {
    let (agent, keycloak) = scene().await;
    allow_all_at_the_proxy(&keycloak).await;
    let pod = Pod::new(&agent, &keycloak, &REGISTRAR);
    let (registration, ready) = pod.registration(&[]);
    registration.log.line_with("jwt_svid.token").await;
    assert_eq!(get(&ready).await.status, 503, "nothing is registered yet");
    let helper = pod.helper();

    assert_eq!(pod.file("/shared/client-id.txt", |_| true).await, SPIFFE_ID);
    let secret = pod.file("/shared/client-secret.txt", |_| true).await;
    assert_eq!(pod.file("/shared/secret.txt", |_| true).await, secret);
    pod.file("/shared/ready", |_| true).await;
    eventually("it is ready", async || (get(&ready).await.status == 200).then_some(())).await;
    for file in [
        "/shared/client-id.txt",
        "/shared/client-secret.txt",
        "/shared/secret.txt",
        "/opt/svid_key.pem",
        "/opt/jwt_svid.token",
    ] {
        let mode = fs::metadata(pod.path(file)).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o640, "{file}: {mode:o}");
        if pod.root {
            assert!(pod.can_read(POD, file).await, "{file}: the server can't read it");
            assert!(!pod.can_read(OTHER, file).await, "{file}: somebody else can");
        }
    }
    for name in ["svid.pem", "svid_bundle.pem", "jwt_bundle.json"] {
        assert!(pod.read(&format!("/opt/{name}")).is_some(), "{name}");
    }

    let backend = McpBackend::with_tools(2).await;
    let home = tempfile::tempdir().unwrap();
    let (_proxy, url, _log) = proxy(&keycloak, &backend, home.path()).await;
    let token = pod.token(&keycloak).await.unwrap();
    let claims = keycloak.verified(REALM, &token);
    let answer = call_tool(&url, Some(&token), "tool-0", json!({})).await;
    assert_eq!(answer.status, 200, "{} {claims:?}", answer.body);
    assert_eq!(call_tool(&url, None, "tool-0", json!({})).await.status, 401);

    for log in [registration.log.text(), helper.log.text()] {
        assert!(!log.contains(&secret) && !log.contains("s3cret-of-registrar"), "{log}");
    }
    assert_eq!(registration.end().await, Some(0));
    assert_eq!(helper.end().await, Some(0));
    assert!(keycloak.client(REALM, SPIFFE_ID).is_some(), "it goes only when that is asked for");
}

#[tokio::test]
async fn what_breaks_around_the_sidecars_heals() {
    let (agent, keycloak) = scene().await;
    keycloak.outage(true);
    agent.stop().await;
    let pod = Pod::new(&agent, &keycloak, &REGISTRAR);
    let (helper, (registration, ready)) = (pod.helper(), pod.registration(&[]));
    helper.log.line_with("agent").await;

    // The agent comes first, then Keycloak.
    agent.restart().await;
    pod.file("/opt/jwt_svid.token", |_| true).await;
    registration.log.line_with("Keycloak").await;
    assert_eq!(get(&ready).await.status, 503);
    keycloak.outage(false);
    let first = pod.file("/shared/client-secret.txt", |_| true).await;
    eventually("it is ready", async || (get(&ready).await.status == 200).then_some(())).await;
    assert!(pod.token(&keycloak).await.is_some());

    // Somebody deletes the client: another is made, with another secret.
    keycloak.delete_client(REALM, SPIFFE_ID);
    let second = pod.file("/shared/client-secret.txt", |text| text != first).await;
    eventually("the new secret works", async || pod.token(&keycloak).await).await;

    // Somebody gives it another secret.
    let rotated = keycloak.rotate_secret(REALM, SPIFFE_ID);
    assert_ne!(rotated, second);
    pod.file("/shared/client-secret.txt", |text| text == rotated).await;

    // SVIDs and the keys of the trust domain are exchanged.
    let (certificate, token) = (pod.read("/opt/svid.pem").unwrap(), pod.read("/opt/jwt_svid.token").unwrap());
    let bundle = pod.read("/opt/jwt_bundle.json").unwrap();
    agent.rotate_x509();
    agent.rotate_jwt_keys();
    pod.file("/opt/svid.pem", |text| text != certificate).await;
    pod.file("/opt/jwt_bundle.json", |text| text != bundle).await;

    // The key that signed the JWT-SVID is trusted no longer: there is another one, and
    // the registration goes on with it.
    agent.revoke_jwt_keys();
    pod.file("/opt/jwt_svid.token", |text| text != token).await;
    keycloak.delete_client(REALM, SPIFFE_ID);
    pod.file("/shared/client-secret.txt", |text| text != rotated).await;
    eventually("its secret works", async || pod.token(&keycloak).await).await;
    eventually("it is ready", async || (get(&ready).await.status == 200).then_some(())).await;

    // The agent starts again, with keys that sign only from now on.
    agent.stop().await;
    agent.restart().await;
    agent.rotate_x509();
    let after = pod.read("/opt/svid.pem").unwrap();
    pod.file("/opt/svid.pem", |text| text != after).await;
    assert_eq!(get(&ready).await.status, 200);
    assert_eq!(helper.end().await, Some(0));
    assert_eq!(registration.end().await, Some(0));
}

#[tokio::test]
async fn a_pod_with_an_initial_access_token_registers_survives_a_restart_and_takes_its_client_along() {
    let (agent, keycloak) = scene().await;
    let token = keycloak.initial_access_token(REALM, 1, 600);
    let pod = Pod::new(&agent, &keycloak, &[("initial-access-token", &token)]);
    let (helper, (registration, ready)) = (pod.helper(), pod.registration(&[]));
    let secret = pod.file("/shared/client-secret.txt", |_| true).await;
    eventually("it is ready", async || (get(&ready).await.status == 200).then_some(())).await;
    assert!(pod.token(&keycloak).await.is_some());
    // The container dies; its volumes stay.
    drop(registration);
    let (registration, ready) = pod.registration(&[("DEREGISTER_DELAY_SECONDS", "1")]);
    eventually("it is ready again", async || {
        let connected =
            tokio::net::TcpStream::connect(ready.trim_start_matches("http://").trim_end_matches("/readyz"));
        (connected.await.is_ok() && get(&ready).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(pod.read("/shared/client-secret.txt").unwrap(), secret);
    assert_eq!(registration.end().await, Some(0));
    assert!(keycloak.client(REALM, SPIFFE_ID).is_none(), "it was to go");
    assert_eq!(helper.end().await, Some(0));
}

#[tokio::test]
async fn the_flags_of_the_published_helper_are_taken() {
    let (agent, keycloak) = scene().await;
    let pod = Pod::new(&agent, &keycloak, &REGISTRAR);
    let config = pod.path("/etc/spiffe-helper/helper.conf");
    let args = [
        "sidecar".to_owned(),
        "spiffe-helper".to_owned(),
        format!("-config={}", config.display()),
        "-daemon-mode=false".to_owned(),
        "run".to_owned(),
    ];
    let done = skep::run(pod.folder.path(), args).await;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(pod.read("/opt/svid.pem").is_some() && pod.read("/opt/jwt_svid.token").is_some());

    fs::write(&config, "agent_address = \"/x\"\nsvid_file_nam = \"a\"\n").unwrap();
    let done =
        skep::run(pod.folder.path(), ["sidecar", "spiffe-helper", "-config", config.to_str().unwrap()]).await;
    assert_eq!(done.code, Some(1));
    assert!(
        done.stderr.contains("helper.conf:2") && done.stderr.contains("svid_file_name"),
        "{}",
        done.stderr
    );
}

#[tokio::test]
async fn a_registration_without_settings_says_so_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = skep::command(folder.path(), ["sidecar", "register-client"]);
    command.env("HEALTH_ADDRESS", &address);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let log = Output::read(child.stderr.take().unwrap());
    let line = log.line_with("nothing is registered").await;
    assert!(line.contains("KEYCLOAK_URL") && line.contains("CLIENT_NAME"), "{line}");
    let ready = eventually("it answers", async || {
        tokio::net::TcpStream::connect(&address).await.ok()?;
        Some(get(&format!("http://{address}/readyz")).await)
    })
    .await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("KEYCLOAK_URL"), "{}", ready.body);
    assert_eq!(get(&format!("http://{address}/startupz")).await.status, 200, "the server need not wait");
    assert!(child.try_wait().unwrap().is_none(), "a container that ends is started again and again");
    assert_eq!(Process { child, log }.end().await, Some(0));
}
