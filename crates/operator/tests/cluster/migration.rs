//! Migration of stored objects, and an upgrade from October 2025, on a real API server.

use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use skep_api::crd::defaults::fill_in;
use skep_api::crd::definition::definitions;
use skep_api::crd::{GROUP, Kind, Object, Spec};
use skep_api::yaml::documents;
use skep_operator::client::Layers;
use skep_operator::migrator::{MigrateError, Migrated, migrate, migrate_crd};
use skep_testkit::control_plane::{self, Assets, ControlPlane, Options};
use tokio_util::sync::CancellationToken;

use crate::harness::client;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const LABEL: &str = "toolhive.stacklok.dev/auto-migrate-storage-version";
const JSON: &str = "application/json";

async fn ok(plane: &ControlPlane, method: &str, path: &str, body: &Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let kind = if body.is_empty() { "" } else { JSON };
    let (status, answer) = plane.request(method, path, kind, &body).await;
    assert!(status < 300, "{method} {path}: {status} {answer}");
    answer
}

async fn get(plane: &ControlPlane, path: &str) -> Value {
    ok(plane, "GET", path, &Value::Null).await
}

/// Waits until a path answers with something that is as it should be.
async fn until(plane: &ControlPlane, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let (status, answer) = plane.request("GET", path, "", "").await;
        if wanted(status, &answer) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{path}: {status} {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A CRD in two versions of which one is stored.
fn crd(group: &str, plural: &str, stored: &str, schema: &Value) -> Value {
    let kind = format!("K{plural}");
    let version = |name: &str| json!({"name": name, "served": true, "storage": name == stored, "schema": {"openAPIV3Schema": schema}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "versions": [version("v1alpha1"), version("v1beta1")],
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": plural.trim_end_matches('s')}},
    })
}

fn anything() -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
}

async fn install(plane: &ControlPlane, crd: &Value) {
    ok(plane, "POST", CRDS, crd).await;
    let (group, plural) =
        (crd["spec"]["group"].as_str().unwrap(), crd["spec"]["names"]["plural"].as_str().unwrap());
    let version = crd["spec"]["versions"][0]["name"].as_str().unwrap();
    until(plane, &format!("/apis/{group}/{version}/{plural}"), |status, _| status == 200).await;
}

/// Replaces the spec of a CRD, and gives what the server says.
async fn replace(plane: &ControlPlane, crd: &Value) -> (u16, Value) {
    let path = format!("{CRDS}/{}", crd["metadata"]["name"].as_str().unwrap());
    let mut now = get(plane, &path).await;
    now["spec"] = crd["spec"].clone();
    if let Some(labels) = crd["metadata"].get("labels") {
        now["metadata"]["labels"] = labels.clone();
    }
    plane.request("PUT", &path, JSON, &now.to_string()).await
}

async fn stored(plane: &ControlPlane, crd: &Value) -> Value {
    let path = format!("{CRDS}/{}", crd["metadata"]["name"].as_str().unwrap());
    get(plane, &path).await["status"]["storedVersions"].clone()
}

/// A kind of the test's own with objects that are stored as v1alpha1, while v1beta1 is what is stored now.
struct Things<'a> {
    plane: &'a ControlPlane,
    namespace: String,
    plural: &'static str,
    crd: Value,
}

impl<'a> Things<'a> {
    async fn new(plane: &'a ControlPlane, plural: &'static str, count: usize) -> Self {
        let old = crd(GROUP, plural, "v1alpha1", &anything());
        install(plane, &old).await;
        let namespace = plane.namespace().await;
        let things = Self { plane, namespace, plural, crd: crd(GROUP, plural, "v1beta1", &anything()) };
        let all = stream::iter(0..count).map(|index| things.create(format!("t{index:04}")));
        all.buffer_unordered(8).collect::<Vec<_>>().await;
        let (status, answer) = replace(plane, &things.crd).await;
        assert_eq!(status, 200, "{answer}");
        // The API server takes up a CRD a moment after it was written.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let probe = things.create("probe".to_owned()).await;
            let path = things.path("probe");
            let mut again = probe.clone();
            again["metadata"]["annotations"] = json!({"probe": "x"});
            ok(plane, "PUT", &path, &again).await;
            ok(plane, "DELETE", &path, &Value::Null).await;
            if stored(plane, &things.crd).await == json!(["v1alpha1", "v1beta1"]) {
                return things;
            }
            assert!(tokio::time::Instant::now() < deadline, "it is not taken up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn path(&self, name: &str) -> String {
        format!("/apis/{GROUP}/v1beta1/namespaces/{}/{}/{name}", self.namespace, self.plural)
    }

    async fn create(&self, name: String) -> Value {
        let object = json!({
            "apiVersion": format!("{GROUP}/v1beta1"), "kind": self.crd["spec"]["names"]["kind"],
            "metadata": {"name": name}, "spec": {"number": 1.5, "must": "be"},
        });
        ok(self.plane, "POST", self.path("").trim_end_matches('/'), &object).await
    }

    /// The CRD as it is now, with the label that it does not have, so that nobody else migrates it.
    async fn labelled(&self) -> Value {
        let path = format!("{CRDS}/{}", self.crd["metadata"]["name"].as_str().unwrap());
        let mut now = get(self.plane, &path).await;
        now["metadata"]["labels"] = json!({LABEL: "true"});
        now
    }

    async fn migrate(&self, stop: &CancellationToken) -> Option<Result<Migrated, MigrateError>> {
        let client = client(self.plane, None, &Layers::default()).await;
        migrate_crd(&client, &self.labelled().await, stop).await.map(|migration| migration.result)
    }

    async fn version_of(&self, name: &str) -> Value {
        get(self.plane, &self.path(name)).await["metadata"]["resourceVersion"].clone()
    }
}

#[tokio::test]
async fn objects_are_stored_anew_and_those_that_are_already_are_not_written() {
    let Some(plane) = control_plane::shared().await else { return };
    let things = Things::new(plane, "rewrites", 2).await;
    let mut touched = get(plane, &things.path("t0000")).await;
    touched["spec"]["number"] = json!(2);
    ok(plane, "PUT", &things.path("t0000"), &touched).await;
    let old = (things.version_of("t0000").await, get(plane, &things.path("t0001")).await);
    let done = things.migrate(&CancellationToken::new()).await.expect("there is work").unwrap();
    assert_eq!(done, Migrated { objects: 2, version: "v1beta1".to_owned() });
    assert_eq!(stored(plane, &things.crd).await, json!(["v1beta1"]));
    assert_eq!(things.version_of("t0000").await, old.0, "it was stored as v1beta1 before");
    let now = get(plane, &things.path("t0001")).await;
    assert_ne!(now["metadata"]["resourceVersion"], old.1["metadata"]["resourceVersion"]);
    for same in ["/spec", "/metadata/generation", "/metadata/uid", "/metadata/managedFields"] {
        assert_eq!(now.pointer(same), old.1.pointer(same), "{same}");
    }
    // Then there is nothing to do.
    assert!(things.migrate(&CancellationToken::new()).await.is_none());
}

#[tokio::test]
async fn more_objects_than_fit_on_a_page_are_all_stored_anew() {
    let Some(plane) = control_plane::shared().await else { return };
    let things = Things::new(plane, "pages", 503).await;
    let before = things.version_of("t0502").await;
    let done = things.migrate(&CancellationToken::new()).await.unwrap().unwrap();
    assert_eq!(done.objects, 503);
    assert_ne!(things.version_of("t0502").await, before);
    // Nothing is stored as v1alpha1: else the server could not read it any more.
    let mut only = things.crd.clone();
    only["spec"]["versions"].as_array_mut().unwrap().remove(0);
    let (status, answer) = replace(plane, &only).await;
    assert_eq!(status, 200, "{answer}");
    until(plane, &format!("/apis/{GROUP}/v1alpha1/{}", things.plural), |status, _| status == 404).await;
    let all = get(plane, things.path("").trim_end_matches('/')).await;
    assert_eq!(all["items"].as_array().unwrap().len(), 503);
}

#[tokio::test]
async fn objects_that_the_new_schema_refuses_keep_the_old_version_alive() {
    let Some(plane) = control_plane::shared().await else { return };
    let schema = json!({"type": "object", "properties": {"spec": {
        "type": "object", "required": ["must"], "properties": {"must": {"type": "string", "enum": ["be"]}}, "x-kubernetes-preserve-unknown-fields": true}}});
    let things = Things::new(plane, "strictthings", 2).await;
    let mut bad = get(plane, &things.path("t0000")).await;
    bad["spec"] = json!({});
    ok(plane, "PUT", &things.path("t0000"), &bad).await;
    let strict = crd(GROUP, "strictthings", "v1beta1", &schema);
    assert_eq!(replace(plane, &strict).await.0, 200);
    // Until the server has taken the schema up, it takes anything.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let mut probe = get(plane, &things.path("t0001")).await;
        probe["spec"]["must"] = json!("not");
        let (status, _) = plane
            .request("PUT", &format!("{}?dryRun=All", things.path("t0001")), JSON, &probe.to_string())
            .await;
        if status == 422 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = things.version_of("t0001").await;
    let error = things.migrate(&CancellationToken::new()).await.unwrap().unwrap_err();
    assert!(matches!(&error, MigrateError::Refused { refused: 1, objects: 2, .. }), "{error}");
    assert_eq!(stored(plane, &things.crd).await, json!(["v1alpha1", "v1beta1"]));
    assert_ne!(things.version_of("t0001").await, before, "the other one is written");
    // Somebody mends it.
    let mut mended = get(plane, &things.path("t0000")).await;
    mended["spec"] = json!({"must": "be"});
    ok(plane, "PUT", &things.path("t0000"), &mended).await;
    assert!(things.migrate(&CancellationToken::new()).await.unwrap().is_ok());
    assert_eq!(stored(plane, &things.crd).await, json!(["v1beta1"]));
}

#[tokio::test]
async fn nothing_is_trimmed_once_it_is_stopped() {
    let Some(plane) = control_plane::shared().await else { return };
    let things = Things::new(plane, "stoppables", 1).await;
    let stop = CancellationToken::new();
    stop.cancel();
    let error = things.migrate(&stop).await.unwrap().unwrap_err();
    assert!(matches!(error, MigrateError::Stopped), "{error}");
    assert_eq!(stored(plane, &things.crd).await, json!(["v1alpha1", "v1beta1"]));
}

#[tokio::test]
async fn whoever_may_not_list_crds_is_told_so() {
    let Some(plane) = control_plane::shared().await else { return };
    let client = client(plane, Some(plane.token_for("nobody")), &Layers::default()).await;
    let error = migrate(&client, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "listing the CRDs failed");
}

/// The Helm chart or kubectl of today, over the CRDs of October 2025.
#[tokio::test]
async fn an_upgrade_from_october_2025_keeps_every_object_and_every_field() {
    let Some(assets) = Assets::find() else {
        control_plane::skip("there is no API server");
        return;
    };
    let plane = &ControlPlane::start(&assets, Options { controllers: Vec::new() }).await;
    let old_crd = documents(include_str!("data/mcpserver-2025-10.yaml")).unwrap().remove(0).value;
    install(plane, &old_crd).await;
    // Two that are none of our business, with the same history.
    let mut foreign = crd("example.com", "foreigns", "v1alpha1", &anything());
    foreign["metadata"]["labels"] = json!({LABEL: "true"});
    let unlabelled = crd(GROUP, "unlabelleds", "v1alpha1", &anything());
    for crd in [&mut foreign, &mut unlabelled.clone()] {
        install(plane, crd).await;
        crd["spec"]["versions"][0]["storage"] = json!(false);
        crd["spec"]["versions"][1]["storage"] = json!(true);
        assert_eq!(replace(plane, crd).await.0, 200);
    }

    let namespace = plane.namespace().await;
    let path = |version: &str, name: &str| {
        format!("/apis/{GROUP}/{version}/namespaces/{namespace}/mcpservers{name}")
    };
    let mut before = Vec::new();
    for document in documents(include_str!("data/servers-2025-10.yaml")).unwrap() {
        let mut made = ok(plane, "POST", &path("v1alpha1", ""), &document.value).await;
        // What was written is there; the rest are defaults of then.
        for (field, value) in document.value["spec"].as_object().unwrap() {
            assert!(contains(&made["spec"][field], value), "{field}");
        }
        let name = format!("/{}", made["metadata"]["name"].as_str().unwrap());
        made["status"] = json!({"phase": "Running", "url": "http://x", "conditions": [
            {"type": "Synced", "status": "True", "reason": "Done", "message": "", "lastTransitionTime": "2025-10-31T00:00:00Z"}]});
        before.push(ok(plane, "PUT", &format!("{}/status", path("v1alpha1", &name)), &made).await);
    }
    assert_eq!(before.len(), 6);

    for crd in definitions() {
        let name = crd["metadata"]["name"].as_str().unwrap();
        if name.starts_with("mcpservers.") {
            let (status, answer) = replace(plane, &crd).await;
            assert_eq!(status, 200, "{answer}");
        } else {
            ok(plane, "POST", CRDS, &crd).await;
        }
    }
    until(plane, &path("v1beta1", ""), |status, _| status == 200).await;
    let crd = definitions().into_iter().find(|crd| crd["spec"]["names"]["kind"] == "MCPServer").unwrap();
    assert_eq!(stored(plane, &crd).await, json!(["v1alpha1", "v1beta1"]));

    let all_there = || async {
        for old in &before {
            let name = old["metadata"]["name"].as_str().unwrap();
            for version in ["v1alpha1", "v1beta1"] {
                let now = get(plane, &path(version, &format!("/{name}"))).await;
                let mut expected = old["spec"].clone();
                fill_in(Kind::MCPServer, &mut expected);
                assert_eq!(now["spec"], expected, "{name} {version}");
                assert_eq!(now["status"], old["status"], "{name} {version}");
                let object = Object::parse(&now).unwrap();
                assert!(
                    !object.findings.iter().any(|found| found.is_error()),
                    "{name}: {:?}",
                    object.findings
                );
                let Spec::Server(server) = object.spec else { panic!("{name} can't be read") };
                if name == "ports-and-tools" {
                    assert_eq!((server.port, server.mcp_port), (9090, 9091));
                    assert_eq!((server.tools.len(), server.group.as_deref()), (2, Some("team")));
                }
                assert_eq!(server.oidc_config.is_some(), ["guarded", "in-cluster"].contains(&name), "{name}");
                assert_eq!(server.telemetry.is_some(), name == "measured", "{name}");
            }
        }
    };
    all_there().await;

    // While objects may be stored as v1alpha1, nobody can drop it.
    let mut only_new = crd.clone();
    only_new["spec"]["versions"].as_array_mut().unwrap().remove(0);
    assert_eq!(replace(plane, &only_new).await.0, 422);

    let client = client(plane, None, &Layers::default()).await;
    let done = migrate(&client, &CancellationToken::new()).await.unwrap();
    let [migration] = done.as_slice() else { panic!("{done:?}") };
    assert_eq!(migration.crd, format!("mcpservers.{GROUP}"));
    assert_eq!(migration.result.as_ref().unwrap().objects, 6);
    assert_eq!(stored(plane, &crd).await, json!(["v1beta1"]));
    all_there().await;
    assert!(migrate(&client, &CancellationToken::new()).await.unwrap().is_empty());
    for other in [&foreign, &unlabelled] {
        assert_eq!(stored(plane, other).await, json!(["v1alpha1", "v1beta1"]));
    }

    assert_eq!(replace(plane, &only_new).await.0, 200);
    until(plane, &path("v1alpha1", ""), |status, _| status == 404).await;
    for old in &before {
        let now =
            get(plane, &path("v1beta1", &format!("/{}", old["metadata"]["name"].as_str().unwrap()))).await;
        let mut expected = old["spec"].clone();
        fill_in(Kind::MCPServer, &mut expected);
        assert_eq!(now["spec"], expected);
    }
}

/// True when everything that was written is there.
fn contains(value: &Value, written: &Value) -> bool {
    match (value, written) {
        (Value::Object(value), Value::Object(written)) => written
            .iter()
            .all(|(name, written)| value.get(name).is_some_and(|value| contains(value, written))),
        (Value::Array(value), Value::Array(written)) => {
            value.len() == written.len()
                && value.iter().zip(written).all(|(value, written)| contains(value, written))
        }
        (value, written) => value == written,
    }
}
