//! The webhook's own certificate against an API server that is a map: who makes it, in what order it is
//! announced, what becomes of a Secret that somebody broke.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use skep_operator::webhook::certificates::{PART, Pace, Parts, run};
use skep_operator::webhook::settings::{CertificateSource, SelfSigned};
use skep_runtime::clock::Clock as _;
use skep_runtime::drain::Drain;
use skep_runtime::health::{Readiness, ReadinessReport};
use skep_runtime::metrics::Metrics;
use skep_runtime::rng::SystemRng;
use skep_runtime::tls::{CertificateMetrics, CertificateSlot, PART as CERTIFICATE, ServingCertificate};
use skep_testkit::{ManualClock, TestCa};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::map_api::{MapApi, Write};
use crate::trust::trusts;

const DAY: Duration = Duration::from_secs(24 * 3600);
const VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);
const SETTLE: Duration = Duration::from_secs(60);
const RETIRE: Duration = Duration::from_secs(3600);
const NAMESPACE: &str = "webhook-system";
const NAME: &str = "skep-webhook.webhook-system.svc";
const SECRET: &str = "/api/v1/namespaces/webhook-system/secrets/server-cert";
const CONFIGURATIONS: [&str; 2] = [
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/mutating",
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/validating",
];

/// A cluster with both configurations, and what must hold at every moment.
struct Cluster {
    api: MapApi,
    clock: ManualClock,
    /// What was wrong with a write, at the moment of it.
    wrong: Arc<Mutex<Vec<String>>>,
}

/// One replica of the webhook.
struct Replica {
    serving: ServingCertificate,
    readiness: Readiness,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Cluster {
    fn new() -> Self {
        let cluster = Self::without_configurations();
        for (path, kind) in CONFIGURATIONS.iter().zip(["Mutating", "Validating"]) {
            cluster.api.put(path, configuration(kind));
        }
        cluster
    }

    fn without_configurations() -> Self {
        let (api, clock, wrong) =
            (MapApi::new(), ManualClock::default(), Arc::<Mutex<Vec<String>>>::default());
        let (seen, noted) = (clock.clone(), Arc::clone(&wrong));
        // What is in the Secret is presented at once by every replica, so whoever believes the configurations
        // has to trust it, after every single write.
        api.on_write(move |write, objects| {
            let Some(leaf) = data(objects.get(SECRET), "tls.crt") else { return };
            for path in CONFIGURATIONS {
                let Some(configuration) = objects.get(path) else { continue };
                for bundle in bundles(configuration) {
                    if !trusts(&bundle, &leaf, NAME, seen.now()) {
                        noted
                            .lock()
                            .unwrap()
                            .push(format!("after {write:?} {path} does not trust the certificate"));
                    }
                }
            }
        });
        Self { api, clock, wrong }
    }

    fn replica(&self, identity: &str) -> Replica {
        let (serving, readiness) = (ServingCertificate::empty(), Readiness::new());
        let metrics = CertificateMetrics::register(&Metrics::new(), "skep_webhook");
        let clock: skep_runtime::clock::SharedClock = Arc::new(self.clock.clone());
        let parts = Parts {
            client: self.api.client(),
            source: CertificateSource::SelfSigned(SelfSigned {
                namespace: NAMESPACE.to_owned(),
                service: "skep-webhook".to_owned(),
                secret: "server-cert".to_owned(),
                mutating_configuration: "mutating".to_owned(),
                validating_configuration: "validating".to_owned(),
                validity: VALIDITY,
                ca_validity: VALIDITY * 10,
            }),
            identity: identity.to_owned(),
            slot: CertificateSlot::new(serving.clone(), readiness.clone(), metrics, Arc::clone(&clock)),
            readiness: readiness.clone(),
            clock,
            rng: SystemRng::shared(),
            pace: Pace {
                poll: Duration::from_millis(20),
                retry: Duration::from_millis(5),
                elect: Duration::from_millis(10),
                settle: SETTLE,
                retire: RETIRE,
                // Time passes in leaps here; the lead is to outlast them.
                lease: 400 * DAY,
                renew: 390 * DAY,
                ..Pace::default()
            },
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(parts, stop.clone()));
        Replica { serving, readiness, stop, task }
    }

    fn secret(&self, key: &str) -> Vec<u8> {
        data(self.api.get(SECRET).as_ref(), key).unwrap_or_default()
    }

    fn authorities(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(&self.secret("ca.crt")).flatten().collect()
    }

    /// Whether a replica presents what is in the Secret, and whoever believes the configurations trusts it.
    fn is_well(&self, replica: &Replica) -> bool {
        let leaf = self.secret("tls.crt");
        let Some(presented) = replica.serving.current() else { return false };
        let presents = CertificateDer::from_pem_slice(&leaf).is_ok_and(|leaf| leaf == presented.chain()[0]);
        presents && CONFIGURATIONS.iter().all(|path| self.believed(path, &leaf)) && replica.report().ready
    }

    fn believed(&self, path: &str, leaf: &[u8]) -> bool {
        let bundles = self.api.get(path).map(|configuration| bundles(&configuration)).unwrap_or_default();
        bundles.len() == 2 && bundles.iter().all(|bundle| trusts(bundle, leaf, NAME, self.clock.now()))
    }

    /// Whether whoever believes the configurations trusts what a replica presents now.
    fn presents_trusted(&self, replica: &Replica) -> bool {
        let presented = replica.serving.current().unwrap();
        let leaf = skep_testkit::tls::pem("CERTIFICATE", &presented.chain()[0]);
        CONFIGURATIONS.iter().all(|path| self.believed(path, leaf.as_bytes()))
    }

    async fn well(&self, replica: &Replica) {
        until("all is well", || self.is_well(replica)).await;
    }

    /// Time that passes while nothing else happens.
    async fn pass(&self, by: Duration) {
        self.clock.advance(by);
        // The loops look every 20 ms of the machine's time.
        let asked = self.api.asked();
        until("the loops have looked", || self.api.asked() > asked + 30).await;
    }

    fn nothing_was_wrong(&self) {
        assert_eq!(*self.wrong.lock().unwrap(), Vec::<String>::new());
    }

    /// Writes that changed this key of the Secret.
    fn written(&self, key: &str) -> usize {
        self.api
            .writes()
            .iter()
            .filter(|write| {
                write.path == SECRET
                    && write.body.pointer("/data").is_some_and(|data| data.get(key).is_some())
            })
            .count()
    }
}

impl Replica {
    fn report(&self) -> ReadinessReport {
        self.readiness.report(&Drain::new().watch())
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task).await.expect("it ends").unwrap();
    }
}

fn configuration(kind: &str) -> Value {
    let webhook = |name: &str| {
        json!({
            "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
            "clientConfig": {"service": {"namespace": NAMESPACE, "name": "skep-webhook", "path": "/x", "port": 443}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}WebhookConfiguration"),
        "metadata": {"name": kind.to_lowercase(), "labels": {"a": "b"}},
        "webhooks": [webhook("one.example.com"), webhook("two.example.com")],
    })
}

fn data(secret: Option<&Value>, key: &str) -> Option<Vec<u8>> {
    let text = secret?.get("data")?.get(key)?.as_str()?;
    Some(STANDARD.decode(text).unwrap()).filter(|bytes| !bytes.is_empty())
}

/// What each webhook of a configuration is to be trusted by, where that is said.
fn bundles(configuration: &Value) -> Vec<Vec<u8>> {
    let webhooks = configuration["webhooks"].as_array().into_iter().flatten();
    webhooks
        .filter_map(|webhook| STANDARD.decode(webhook["clientConfig"]["caBundle"].as_str()?).ok())
        .collect()
}

async fn until(what: &str, wanted: impl Fn() -> bool) {
    let waited = async {
        while !wanted() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited)
        .await
        .unwrap_or_else(|_| panic!("never came true: {what}"));
}

#[tokio::test]
async fn replicas_make_one_certificate_and_all_present_it() {
    let cluster = Cluster::new();
    let replicas: Vec<Replica> = (0..3).map(|index| cluster.replica(&format!("r{index}"))).collect();
    for replica in &replicas {
        cluster.well(replica).await;
        assert_eq!(replica.report().warnings, BTreeMap::new());
    }
    assert_eq!((cluster.written("ca.crt"), cluster.written("tls.crt")), (1, 1));
    let presented = replicas[0].serving.current().unwrap();
    let names = [
        "skep-webhook",
        "skep-webhook.webhook-system",
        NAME,
        "skep-webhook.webhook-system.svc.cluster.local",
    ];
    assert_eq!(presented.names(), names);
    let now = cluster.clock.unix_seconds();
    assert_eq!(presented.not_before().as_second(), now - 300);
    assert_eq!(presented.not_after().as_second(), now + VALIDITY.as_secs() as i64);
    cluster.nothing_was_wrong();
    for replica in replicas {
        replica.stop().await;
    }
}

#[tokio::test]
async fn only_ca_bundles_of_the_configurations_are_ever_changed_and_they_are_healed() {
    let cluster = Cluster::new();
    let before: Vec<Value> = CONFIGURATIONS.iter().map(|path| cluster.api.get(path).unwrap()).collect();
    let replica = cluster.replica("r");
    cluster.well(&replica).await;
    let other = STANDARD.encode(TestCa::new().pem());
    for broken in [json!(other), json!(""), json!("bm90IGEgQ0E="), Value::Null] {
        for path in CONFIGURATIONS {
            let mut changed = cluster.api.get(path).unwrap();
            changed["webhooks"][1]["clientConfig"]["caBundle"] = broken.clone();
            cluster.api.put(path, changed);
        }
        cluster.well(&replica).await;
    }
    for (path, before) in CONFIGURATIONS.iter().zip(before) {
        let mut after = cluster.api.get(path).unwrap();
        after["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        for webhook in after["webhooks"].as_array_mut().unwrap() {
            webhook["clientConfig"].as_object_mut().unwrap().remove("caBundle");
        }
        let mut before = before;
        before["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        assert_eq!(after, before);
    }
    assert_eq!((cluster.written("ca.crt"), cluster.written("tls.crt")), (1, 1));
    replica.stop().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_when_a_third_of_its_time_is_left() {
    let cluster = Cluster::new();
    let replica = cluster.replica("r");
    cluster.well(&replica).await;
    let (first, authorities) = (replica.serving.current().unwrap(), cluster.authorities());
    cluster.pass(59 * DAY).await;
    assert_eq!(cluster.written("tls.crt"), 1, "not yet");
    cluster.pass(DAY).await;
    until("it is renewed", || cluster.written("tls.crt") == 2).await;
    cluster.well(&replica).await;
    assert!(replica.serving.not_after().unwrap() > first.not_after());
    assert_eq!(cluster.authorities(), authorities, "the CA stays");
    cluster.nothing_was_wrong();
    replica.stop().await;
}

#[tokio::test]
async fn a_new_ca_is_announced_then_used_and_the_old_one_withdrawn_at_last() {
    let cluster = Cluster::new();
    let replica = cluster.replica("r");
    cluster.well(&replica).await;
    let old = cluster.authorities();
    // Two thirds of the CA's time; certificates are renewed on the way.
    for _ in 0..20 {
        cluster.pass(29 * DAY).await;
        cluster.well(&replica).await;
    }
    assert_eq!(cluster.authorities(), old);
    let presented = replica.serving.current().unwrap();
    cluster.clock.advance(21 * DAY);
    until("there is a new CA", || cluster.authorities().len() == 2).await;
    assert_eq!(cluster.authorities()[1], old[0], "the old one behind it");
    let both = cluster.secret("ca.crt");
    until("both are announced", || {
        CONFIGURATIONS
            .iter()
            .all(|path| bundles(&cluster.api.get(path).unwrap()) == [both.clone(), both.clone()])
    })
    .await;
    let writes = cluster.written("tls.crt");
    cluster.pass(SETTLE / 2).await;
    assert_eq!(cluster.written("tls.crt"), writes, "API servers may not know it yet");
    assert_eq!(replica.serving.current().unwrap(), presented);
    cluster.pass(SETTLE / 2).await;
    until("the new CA signs", || cluster.written("tls.crt") == writes + 1).await;
    cluster.well(&replica).await;
    cluster.pass(RETIRE / 2).await;
    assert_eq!(cluster.authorities().len(), 2, "a replica may still present what the old one signed");
    cluster.pass(RETIRE / 2).await;
    until("the old CA is withdrawn", || cluster.authorities().len() == 1).await;
    assert_ne!(cluster.authorities(), old);
    let one = cluster.secret("ca.crt");
    until("and is no longer announced", || {
        CONFIGURATIONS
            .iter()
            .all(|path| bundles(&cluster.api.get(path).unwrap()) == [one.clone(), one.clone()])
    })
    .await;
    cluster.well(&replica).await;
    cluster.nothing_was_wrong();
    replica.stop().await;
}

#[tokio::test]
async fn a_secret_that_somebody_broke_is_made_anew_while_what_is_presented_stays_trusted() {
    let stranger = TestCa::new();
    let foreign = stranger.server(&[NAME]);
    let b64 = |text: &str| json!(STANDARD.encode(text));
    let changes: Vec<(&str, Option<Value>)> = vec![
        ("deleted", None),
        ("emptied", Some(json!({}))),
        ("the CA's key is gone", Some(json!({"ca.key": null}))),
        ("the CA's key is junk", Some(json!({"ca.key": b64("junk")}))),
        ("the CA's key is another's", Some(json!({"ca.key": b64(&foreign.key_pem)}))),
        ("the CAs are gone", Some(json!({"ca.crt": null}))),
        ("the CAs are junk", Some(json!({"ca.crt": b64("junk")}))),
        ("the key is another's", Some(json!({"tls.key": b64(&foreign.key_pem)}))),
        ("the certificate is gone", Some(json!({"tls.crt": null, "tls.key": null}))),
        (
            "a stranger's certificate",
            Some(json!({"tls.crt": b64(&foreign.certificate_pem), "tls.key": b64(&foreign.key_pem)})),
        ),
        ("certificate and key are one", Some(json!({"tls.crt": b64(&foreign.key_pem)}))),
    ];
    for (what, change) in changes {
        let cluster = Cluster::new();
        let (leader, other) = (cluster.replica("a"), cluster.replica("b"));
        cluster.well(&leader).await;
        cluster.well(&other).await;
        match change {
            None => cluster.api.delete(SECRET),
            Some(change) => {
                let mut secret = cluster.api.get(SECRET).unwrap();
                let emptied = change.as_object().unwrap().is_empty();
                for (key, value) in change.as_object().unwrap() {
                    secret["data"][key] = value.clone();
                }
                secret["data"].as_object_mut().unwrap().retain(|_, value| !emptied && !value.is_null());
                cluster.api.put(SECRET, secret);
            }
        }
        let well = async {
            while !(cluster.is_well(&leader) && cluster.is_well(&other)) {
                for replica in [&leader, &other] {
                    assert!(cluster.presents_trusted(replica), "{what}: an API server would not trust it");
                    assert!(replica.report().ready, "{what}: what is presented is still good");
                }
                cluster.clock.advance(Duration::from_millis(500));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), well)
            .await
            .unwrap_or_else(|_| panic!("{what}: it stays broken"));
        let now = cluster.clock.now();
        assert!(!trusts(stranger.pem().as_bytes(), &cluster.secret("tls.crt"), NAME, now), "{what}");
        leader.stop().await;
        other.stop().await;
    }
}

#[tokio::test]
async fn who_may_not_announce_presents_nothing_and_says_why() {
    let cluster = Cluster::new();
    cluster.api.forbid("PATCH", "validatingwebhookconfigurations");
    let replica = cluster.replica("r");
    until("it says why", || {
        replica.report().warnings.get(PART).is_some_and(|warning| {
            warning.contains("no right to patch the ValidatingWebhookConfiguration validating")
        })
    })
    .await;
    let expected = "the Secret webhook-system/server-cert holds no certificate yet";
    until("and what is missing", || {
        replica.report().reasons.get(CERTIFICATE).is_some_and(|reason| reason == expected)
    })
    .await;
    assert!(replica.serving.current().is_none() && cluster.written("tls.crt") == 0);
    cluster.api.allow();
    cluster.well(&replica).await;
    assert_eq!(replica.report().warnings, BTreeMap::new());
    replica.stop().await;
}

#[tokio::test]
async fn without_configurations_nobody_calls_and_that_is_said() {
    let cluster = Cluster::without_configurations();
    let replica = cluster.replica("r");
    until("it is ready", || replica.report().ready).await;
    let expected =
        "there is no MutatingWebhookConfiguration mutating and no ValidatingWebhookConfiguration validating";
    until("it is said", || {
        replica.report().warnings.get(PART).is_some_and(|warning| warning.starts_with(expected))
    })
    .await;
    cluster.api.put(CONFIGURATIONS[0], configuration("Mutating"));
    cluster.api.put(CONFIGURATIONS[1], configuration("Validating"));
    cluster.well(&replica).await;
    until("and no longer", || replica.report().warnings.is_empty()).await;
    replica.stop().await;
}

#[tokio::test]
async fn what_was_trusted_before_the_first_certificate_stays_trusted_until_it_is_not_needed() {
    let (cluster, former) = (Cluster::new(), TestCa::new());
    for path in CONFIGURATIONS {
        let mut configuration = cluster.api.get(path).unwrap();
        for index in 0..2 {
            configuration["webhooks"][index]["clientConfig"]["caBundle"] =
                json!(STANDARD.encode(former.pem()));
        }
        cluster.api.put(path, configuration);
    }
    // Another release of the webhook, with a certificate of somebody else's, is still answering.
    let answering = former.server(&[NAME]).certificate_pem;
    let replica = cluster.replica("r");
    until("there is a CA", || cluster.authorities().len() == 2).await;
    until("both are announced", || {
        CONFIGURATIONS
            .iter()
            .all(|path| bundles(&cluster.api.get(path).unwrap())[1] == cluster.secret("ca.crt"))
    })
    .await;
    assert_eq!(cluster.written("tls.crt"), 0);
    cluster.pass(SETTLE).await;
    cluster.well(&replica).await;
    assert!(cluster.believed(CONFIGURATIONS[0], answering.as_bytes()));
    cluster.pass(RETIRE).await;
    until("the former one is gone", || !cluster.believed(CONFIGURATIONS[0], answering.as_bytes())).await;
    cluster.well(&replica).await;
    cluster.nothing_was_wrong();
    replica.stop().await;
}

#[tokio::test]
async fn another_replica_goes_on_where_the_leader_ended() {
    let cluster = Cluster::new();
    let (first, second) = (cluster.replica("first"), cluster.replica("second"));
    cluster.well(&first).await;
    cluster.well(&second).await;
    let lease = "/apis/coordination.k8s.io/v1/namespaces/webhook-system/leases/server-cert";
    let holder = || cluster.api.get(lease).unwrap()["spec"]["holderIdentity"].as_str().unwrap().to_owned();
    let (leader, left) = if holder() == "first" { (first, second) } else { (second, first) };
    leader.stop().await;
    let ended = cluster.api.writes().len();
    until("the other one leads", || !holder().is_empty()).await;
    cluster.pass(60 * DAY).await;
    until("it renews", || cluster.written("tls.crt") == 2).await;
    cluster.well(&left).await;
    assert!(cluster.api.writes().len() > ended);
    left.stop().await;
    assert_eq!(holder(), "", "given up");
    cluster.nothing_was_wrong();
}

#[tokio::test]
async fn whoever_is_faster_wins_and_the_step_is_done_again() {
    let cluster = Cluster::new();
    // Right before the first five writes of the Secret, somebody else writes it.
    cluster.api.interfere(SECRET, 5, |object| object["metadata"]["labels"]["touched"] = json!("yes"));
    let replica = cluster.replica("r");
    cluster.well(&replica).await;
    let secret = cluster.api.get(SECRET).unwrap();
    assert_eq!(secret["metadata"]["labels"]["touched"], "yes", "nothing of the other's was lost");
    assert!(cluster.api.refused() >= 5);
    cluster.nothing_was_wrong();
    replica.stop().await;
}

#[test]
fn a_write_shows_no_key() {
    let write =
        Write { method: "PATCH".to_owned(), path: SECRET.to_owned(), body: json!({"data": {"ca.key": "x"}}) };
    assert_eq!(format!("{write:?}"), format!("PATCH {SECRET}"));
}
