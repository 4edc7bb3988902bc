//! What kubectl makes of `deploy/kustomize`.

use std::path::{Component, Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use skep_api::yaml::documents;
use skep_testkit::control_plane;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Builds a kustomization of somebody's own; none when there is no kubectl here. `more` comes after the component.
fn registration_with(more: &str) -> Option<Vec<Value>> {
    let kubectl = std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join("kubectl"))
        .find(|path| path.is_file());
    let Some(kubectl) = kubectl else {
        control_plane::skip("there is no kubectl here: hack/test installs it");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().canonicalize().unwrap();
    // Only relative paths are taken.
    let up: PathBuf = here.components().filter(|part| *part != Component::RootDir).map(|_| "..").collect();
    let deploy = up.join(repository().strip_prefix("/").unwrap()).join("deploy/kustomize");
    let (base, component) = (deploy.join("base"), deploy.join("registration"));
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [{}]\ncomponents: [{}]\n{more}",
        base.display(),
        component.display()
    );
    std::fs::write(here.join("kustomization.yaml"), text).unwrap();
    let output = Command::new(kubectl).arg("kustomize").arg(&here).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Some(documents(&text).unwrap().into_iter().map(|document| document.value).collect())
}

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[test]
fn kubectl_adds_the_registration_to_the_operator() {
    let Some(objects) = registration_with("") else { return };
    named(&objects, "ClusterRole", "toolhive-operator-registration-role");
    let binding = named(&objects, "ClusterRoleBinding", "toolhive-operator-registration-rolebinding");
    let account = &binding["subjects"][0];
    assert_eq!(
        named(&objects, "ServiceAccount", "toolhive-operator")["metadata"]["namespace"],
        account["namespace"]
    );
    let pod = &named(&objects, "Deployment", "toolhive-operator")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let variables: Vec<_> =
        container["env"].as_array().unwrap().iter().filter_map(|entry| entry["name"].as_str()).collect();
    for name in [
        "POD_NAMESPACE",
        "TOOLHIVE_RUNNER_IMAGE",
        "SKEP_KEYCLOAK_URL",
        "SKEP_KEYCLOAK_REALM",
        "SKEP_KEYCLOAK_CREDENTIALS",
        "SKEP_SPIFFE_TRUST_DOMAIN",
    ] {
        assert!(variables.contains(&name), "{name} is not in {variables:?}");
    }
    assert_eq!(container["command"], json!(["/skep", "operator"]), "the patch is merged, not put in place");
    assert_eq!(container["volumeMounts"][0]["mountPath"], "/etc/skep/keycloak");
    assert_eq!(pod["volumes"][0]["secret"]["secretName"], "toolhive-operator-keycloak");
    assert_eq!(pod["securityContext"]["fsGroup"], 1000);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
}

#[test]
fn the_patch_of_the_documentation_leaves_user_and_group_to_openshift() {
    let page = std::fs::read_to_string(repository().join("docs/operator.md")).unwrap();
    let patch = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let patch =
        patch.into_iter().find(|text| text.starts_with("patches:")).expect("a patch in docs/operator.md");
    let Some(objects) = registration_with(patch) else { return };
    let pod = &named(&objects, "Deployment", "toolhive-operator")["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"].get("fsGroup"), None);
    assert_eq!(pod["containers"][0]["securityContext"].get("runAsUser"), None);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
}
