//! The Makefile, run with programs that only write down how they were called; and the Dockerfile as it is written.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use skep_testkit::control_plane;

use crate::harness::helm::{Rendered, on_path};
use crate::harness::repository;

/// A folder with programs of these names, and what they were called with.
struct Programs {
    folder: tempfile::TempDir,
    make: PathBuf,
}

impl Programs {
    fn find_or_skip() -> Option<Self> {
        let Some(make) = on_path("make") else {
            control_plane::skip("there is no make here: hack/test installs it");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        // `kubectl kustomize` prints what it is asked for, and `kubectl apply` and `delete` keep what they get.
        let script = "#!/bin/sh\nname=$(basename \"$0\")\nprintf '%s %s\\n' \"$name\" \"$*\" >>\"$CALLS/calls\"\n\
            case \"$name $*\" in\n\
            'kubectl kustomize '*) cat \"$2/skep-webhook.yaml\" ;;\n\
            'kubectl '*'-f -') cat >\"$CALLS/input\" ;;\nesac\n";
        for name in ["docker", "kind", "helm", "kubectl"] {
            let path = folder.path().join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Some(Self { folder, make })
    }

    fn run(&self, args: &[&str]) -> Result<(String, Vec<String>), String> {
        let calls = self.folder.path().join("calls");
        let _ = fs::remove_file(&calls);
        let path = format!("{}:{}", self.folder.path().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(&self.make);
        for name in ["MAKEFLAGS", "IMG", "CLUSTER", "CONTEXT", "NAMESPACE", "HELM_OPTS", "CERT_MANAGER"] {
            command.env_remove(name);
        }
        command.env_remove("ENABLE_CLIENT_REGISTRATION").env("PATH", path).env("CALLS", self.folder.path());
        let output = command.arg("-C").arg(repository()).args(args).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        let calls = fs::read_to_string(calls).unwrap_or_default();
        Ok((String::from_utf8(output.stdout).unwrap(), calls.lines().map(str::to_owned).collect()))
    }

    #[track_caller]
    fn calls(&self, args: &[&str]) -> Vec<String> {
        self.run(args).unwrap_or_else(|error| panic!("make {args:?}: {error}")).1
    }

    fn input(&self) -> Rendered {
        Rendered::parse(&fs::read_to_string(self.folder.path().join("input")).unwrap())
    }
}

#[test]
fn local_dev_builds_loads_and_installs_into_the_named_cluster_and_no_other() {
    let Some(programs) = Programs::find_or_skip() else { return };
    let calls = programs.calls(&[
        "local-dev",
        "CLUSTER=dev",
        "IMG=r:5000/skep:7",
        "ENABLE_CLIENT_REGISTRATION=false",
    ]);
    let starts: Vec<&str> = calls.iter().map(|call| call.split(" --").next().unwrap()).collect();
    assert_eq!(
        starts,
        ["docker build", "kind load docker-image r:5000/skep:7", "helm upgrade", "kubectl", "kubectl"]
    );
    assert_eq!(calls[0], "docker build --tag r:5000/skep:7 .");
    assert_eq!(calls[1], "kind load docker-image r:5000/skep:7 --name dev");
    assert_eq!(
        calls[2].trim_end(),
        "helm upgrade --install skep-webhook deploy/helm/skep-webhook --kube-context kind-dev --namespace skep-webhook-system --create-namespace --set-string image.repository=r:5000/skep:7 --set-string image.tag= --set image.pullPolicy=IfNotPresent --set webhook.enableClientRegistration=false --set certManager.enabled=false"
    );
    for call in &calls[3..] {
        assert!(
            call.starts_with("kubectl --context kind-dev --namespace skep-webhook-system rollout"),
            "{call}"
        );
        assert!(call.contains("deployment/skep-webhook-controller-manager"), "{call}");
    }
}

#[test]
fn each_target_calls_what_it_says() {
    let Some(programs) = Programs::find_or_skip() else { return };
    let firsts = |args: &[&str]| -> Vec<String> {
        let words = |call: &String| call.split(' ').take(2).collect::<Vec<_>>().join(" ");
        programs.calls(args).iter().map(words).collect()
    };
    for (target, expected) in [
        ("docker-build", vec!["docker build"]),
        ("kind-load-image", vec!["kind load"]),
        ("install-local-chart", vec!["kind load", "helm upgrade", "kubectl --context", "kubectl --context"]),
        (
            "reinstall-local-chart",
            vec!["helm uninstall", "kind load", "helm upgrade", "kubectl --context", "kubectl --context"],
        ),
        ("uninstall-local-chart", vec!["helm uninstall"]),
    ] {
        assert_eq!(firsts(&[target]), expected, "{target}");
    }
    let (help, calls) = programs.run(&[]).unwrap();
    assert!(calls.is_empty());
    for target in [
        "help",
        "local-dev",
        "docker-build",
        "kind-load-image",
        "install-local-chart",
        "reinstall-local-chart",
        "uninstall-local-chart",
        "deploy",
        "undeploy",
    ] {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(&format!("{target} "))),
            "{target}: {help}"
        );
    }
}

#[test]
fn deploy_applies_the_kustomization_with_the_image_and_the_switch() {
    let Some(programs) = Programs::find_or_skip() else { return };
    let calls = programs.calls(&["deploy", "IMG=r/skep:7", "ENABLE_CLIENT_REGISTRATION=false"]);
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(
        calls.contains(&"kubectl kustomize deploy/kustomize/webhook/self-signed".to_owned()),
        "{calls:?}"
    );
    assert!(calls.contains(&"kubectl apply -f -".to_owned()), "the current context: {calls:?}");
    let applied = programs.input();
    assert_eq!(applied.container()["image"], "r/skep:7");
    assert!(applied.args().contains(&"--enable-client-registration=false"));
    assert!(applied.args().contains(&"--sidecar-image=r/skep:7"));
    assert!(applied.args().contains(&"--self-signed"));

    let calls = programs.calls(&["deploy", "CLUSTER=dev", "CERT_MANAGER=true"]);
    assert!(calls.contains(&"kubectl kustomize deploy/kustomize/webhook".to_owned()), "{calls:?}");
    assert!(calls.contains(&"kubectl --context kind-dev apply -f -".to_owned()), "{calls:?}");
    assert_eq!(programs.input().of("Certificate").len(), 2);
    assert!(programs.input().args().contains(&"--enable-client-registration=true"));

    let calls = programs.calls(&["undeploy", "CONTEXT=other"]);
    assert!(
        calls.contains(&"kubectl --context other delete --ignore-not-found -f -".to_owned()),
        "{calls:?}"
    );
}

#[test]
fn a_switch_that_is_neither_true_nor_false_is_refused() {
    let Some(programs) = Programs::find_or_skip() else { return };
    let refused = programs.run(&["deploy", "ENABLE_CLIENT_REGISTRATION=no"]).unwrap_err();
    assert!(refused.contains("is true or false, not 'no'"), "{refused}");
}

/// Instructions of the Dockerfile with their words, lines that go on put together.
fn instructions() -> Vec<(String, String)> {
    let text = fs::read_to_string(repository().join("Dockerfile")).unwrap().replace("\\\n", " ");
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (name, rest) = line.split_once(' ').unwrap();
            (name.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" "))
        })
        .collect()
}

#[test]
fn the_image_runs_the_proxy_as_nobody_and_is_built_from_what_is_there() {
    let instructions = instructions();
    let stages: Vec<usize> =
        (0..instructions.len()).filter(|index| instructions[*index].0 == "FROM").collect();
    assert_eq!(stages.len(), 2);
    let (build, last) = instructions.split_at(stages[1]);
    let of = |stage: &[(String, String)], name: &str| -> Vec<String> {
        stage.iter().filter(|(one, _)| one == name).map(|(_, rest)| rest.clone()).collect()
    };
    let workspace = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let version = workspace.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap();
    assert!(build[0].1.starts_with(&format!("rust:{}-", version.trim_matches('"'))), "{}", build[0].1);
    assert_eq!(last[0].1, "debian:12-slim");
    assert_eq!(of(last, "USER"), ["65532:65532"]);
    assert_eq!(of(last, "ENTRYPOINT"), ["[\"/thv-proxyrunner\"]"]);
    assert_eq!(of(last, "COPY"), ["--from=build /source/target/release/skep /skep"]);
    assert!(of(last, "RUN").join(" ").ends_with("ln -s skep /thv-proxyrunner"));
    assert!(of(last, "CMD").is_empty());

    // What is copied is there, and not left out of the context; and it is all that the workspace needs.
    let ignored = fs::read_to_string(repository().join(".dockerignore")).unwrap();
    let copied: Vec<String> = of(build, "COPY")
        .iter()
        .flat_map(|line| line.split(' ').rev().skip(1).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    for path in &copied {
        assert!(repository().join(path).exists(), "{path}");
        assert!(
            ignored.lines().any(|line| line == format!("!{path}")),
            "{path} is left out by .dockerignore"
        );
    }
    for member in ["crates", "tests/e2e", "benches", "Cargo.lock"] {
        assert!(copied.iter().any(|path| path == member), "{member}");
    }
    assert!(of(build, "RUN")[0].starts_with("cargo build --release --locked --package skep"));
}
