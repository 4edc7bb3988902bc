//! Helm, and the chart of the webhook as it renders.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use skep_api::yaml::documents;
use skep_testkit::control_plane;

use super::repository;

/// Name of releases in the tests.
pub(crate) const RELEASE: &str = "skep-webhook";
/// Namespace of releases in the tests.
pub(crate) const NAMESPACE: &str = "webhooks";

/// The program, or `None` after a skip was recorded.
pub(crate) struct Helm {
    program: PathBuf,
    home: tempfile::TempDir,
}

impl Helm {
    /// Finds it on the path, where `hack/test` puts it.
    pub(crate) fn find_or_skip() -> Option<Self> {
        let Some(program) = on_path("helm") else {
            control_plane::skip("there is no helm here: hack/test installs it");
            return None;
        };
        Some(Self { program, home: tempfile::tempdir().unwrap() })
    }

    /// Runs it, and gives what it printed, or what it complained of.
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String, String> {
        let output = Command::new(&self.program)
            .args(args)
            .env("HOME", self.home.path())
            .env_remove("KUBECONFIG")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// The chart as text.
    pub(crate) fn template(&self, more: &[&str]) -> Result<String, String> {
        let chart = chart();
        let args = ["template", RELEASE, chart.to_str().unwrap(), "--namespace", NAMESPACE];
        self.run(args.iter().chain(more))
    }

    /// The chart's objects.
    pub(crate) fn render(&self, more: &[&str]) -> Rendered {
        let text = self.template(more).unwrap_or_else(|error| panic!("{more:?}: {error}"));
        Rendered::parse(&text)
    }
}

/// The folder of the chart.
pub(crate) fn chart() -> PathBuf {
    repository().join("deploy/helm/skep-webhook")
}

/// A program on the path.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Objects.
#[derive(Debug)]
pub(crate) struct Rendered(pub(crate) Vec<Value>);

impl Rendered {
    /// Reads them.
    pub(crate) fn parse(text: &str) -> Self {
        let found = documents(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        Self(found.into_iter().map(|document| document.value).filter(|value| !value.is_null()).collect())
    }

    /// All objects of a kind.
    pub(crate) fn of(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|object| object["kind"] == kind).collect()
    }

    /// The object of a kind whose name ends so.
    #[track_caller]
    pub(crate) fn one(&self, kind: &str, end: &str) -> &Value {
        let found = self
            .of(kind)
            .into_iter()
            .find(|object| object["metadata"]["name"].as_str().unwrap().ends_with(end));
        found.unwrap_or_else(|| panic!("there is no {kind} *{end}"))
    }

    /// The webhook's container.
    pub(crate) fn container(&self) -> &Value {
        &self.one("Deployment", "")["spec"]["template"]["spec"]["containers"][0]
    }

    /// Its arguments.
    pub(crate) fn args(&self) -> Vec<&str> {
        self.container()["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect()
    }

    /// All webhooks of both configurations.
    pub(crate) fn webhooks(&self) -> Vec<&Value> {
        let configurations =
            [self.of("MutatingWebhookConfiguration"), self.of("ValidatingWebhookConfiguration")].concat();
        configurations.into_iter().flat_map(|one| one["webhooks"].as_array().unwrap()).collect()
    }
}

/// The objects of a file.
pub(crate) fn file(path: &Path) -> Rendered {
    Rendered::parse(&std::fs::read_to_string(path).unwrap())
}
