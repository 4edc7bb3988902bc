//! A running `skep up`.

use std::fs;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::output::Output;
use super::{PATIENCE, eventually, skep};

/// A `skep up` that is ready. It is killed when this is dropped; what it printed is shown when the test fails.
pub(crate) struct Up {
    /// Content of its ready file.
    pub(crate) ready: Value,
    /// Its standard output: the table of endpoints and the audit records.
    pub(crate) stdout: Output,
    /// Its log.
    pub(crate) stderr: Output,
    child: Child,
    home: TempDir,
}

impl Up {
    /// Runs the built-in demo.
    pub(crate) async fn demo() -> Self {
        Self::start(&[]).await
    }

    /// Runs the manifests of a file or folder.
    pub(crate) async fn of(manifests: &Path) -> Self {
        Self::start(&["-f", manifests.to_str().unwrap()]).await
    }

    /// Runs a manifest beside the demo's own servers; none when somebody else has their ports.
    pub(crate) async fn try_beside_demo(manifest: &Path) -> Option<Self> {
        Self::try_start(&["--demo", "-f", manifest.to_str().unwrap()]).await.ok()
    }

    async fn start(args: &[&str]) -> Self {
        Self::try_start(args)
            .await
            .unwrap_or_else(|status| panic!("skep up ended with {status} before it was ready"))
    }

    async fn try_start(args: &[&str]) -> Result<Self, ExitStatus> {
        let home = tempfile::tempdir().unwrap();
        let ready_file = home.path().join("ready.json");
        let mut command = skep::command(home.path(), ["up", "--ready-file", ready_file.to_str().unwrap()]);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = Output::read(child.stdout.take().unwrap());
        let stderr = Output::read(child.stderr.take().unwrap());
        let mut up = Self { ready: Value::Null, stdout, stderr, child, home };
        up.ready = eventually("skep up is ready", async || {
            if let Some(status) = up.child.try_wait().unwrap() {
                return Some(Err(status));
            }
            fs::read(&ready_file).ok().and_then(|text| serde_json::from_slice(&text).ok()).map(Ok)
        })
        .await?;
        Ok(up)
    }

    /// Where clients of an object connect.
    pub(crate) fn url(&self, kind: &str, name: &str) -> String {
        let objects = self.ready["objects"].as_array().unwrap();
        let object = objects.iter().find(|object| object["kind"] == kind && object["name"] == name);
        object.unwrap_or_else(|| panic!("no {kind} {name} in {}", self.ready))["url"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// The home that it was started with: nothing but what it made is in there.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// A demo token, through `skep token`.
    pub(crate) async fn token(&self, user: &str) -> String {
        let run = skep::run(self.home.path(), ["token", "--user", user]).await;
        assert_eq!(run.code, Some(0), "skep token --user {user}: {}", run.stderr);
        run.stdout.trim_end().to_owned()
    }

    /// A shell with the same home and the binary on its path, as the user who reads the printed commands has.
    pub(crate) fn shell(&self, line: &str) -> Command {
        let folder = skep::binary().parent().unwrap().display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command.args(["-c", line]).env("PATH", format!("{folder}:{path}"));
        command.env("HOME", self.home.path()).env("XDG_RUNTIME_DIR", self.home.path());
        command.env("TMPDIR", self.home.path()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// The audit records so far that satisfy `wanted`, once there are `count` of them.
    pub(crate) async fn audit(&self, count: usize, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let records = |lines: &[String]| {
            let all = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let found: Vec<Value> = all.filter(|r| r["msg"] == "audit_event" && wanted(r)).collect();
            (found.len() >= count).then_some(found)
        };
        self.stdout.find(&format!("{count} audit records"), records).await
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub(crate) async fn interrupt(&self) {
        let id = self.child.id().expect("it is running");
        let sent = Command::new("sh").args(["-c", &format!("kill -INT {id}")]).status().await.unwrap();
        assert!(sent.success());
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("skep up ends").unwrap()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- skep up, standard output\n{}", self.stdout.text());
            eprintln!("--- skep up, log\n{}", self.stderr.text());
        }
    }
}
