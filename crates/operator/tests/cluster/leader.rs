//! Leader election on a real API server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skep_operator::client::hooks::{Recorder, SharedHook};
use skep_operator::client::{Layers, WriteGate, refused_by_gate};
use skep_operator::leader::{ClusterLeases, ElectionSettings, Elector, LeaderError};
use skep_operator::settings::LEASE_NAME;
use skep_runtime::clock::{SharedClock, SystemClock};
use skep_runtime::rng::SystemRng;
use skep_testkit::control_plane::{self, Assets, ControlPlane};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{PATIENCE, client};

/// One operator's part in the election.
struct Process {
    gate: WriteGate,
    leading: watch::Receiver<bool>,
    stop: CancellationToken,
    recorder: Arc<Recorder>,
    ended: JoinHandle<Result<(), LeaderError>>,
}

impl Process {
    async fn start(plane: &ControlPlane, namespace: &str, identity: &str, token: Option<&str>) -> Self {
        let clock: SharedClock = SystemClock::shared();
        let gate = WriteGate::closed(Arc::clone(&clock), Duration::from_millis(300));
        let recorder = Recorder::shared();
        let layers = Layers { hook: Some(Arc::clone(&recorder) as SharedHook), ..Layers::default() };
        let client = client(plane, token, &layers).await;
        let leases = ClusterLeases::new(client, namespace, LEASE_NAME);
        let settings = ElectionSettings {
            lease: Duration::from_secs(2),
            renew: Duration::from_millis(1_300),
            retry: Duration::from_millis(250),
            ..ElectionSettings::new(namespace, identity)
        };
        let elector = Elector::new(leases, settings, clock, SystemRng::shared(), gate.clone());
        let (leading, stop) = (elector.leading(), CancellationToken::new());
        let ended = tokio::spawn(elector.run(stop.clone()));
        Self { gate, leading, stop, recorder, ended }
    }

    async fn leads(&mut self) {
        let led = tokio::time::timeout(PATIENCE, self.leading.wait_for(|leading| *leading)).await;
        led.expect("it leads in time").expect("it leads before it ends");
    }
}

async fn lease(plane: &ControlPlane, namespace: &str) -> Value {
    let (code, body) = plane.request("GET", &path(namespace), "", "").await;
    assert_eq!(code, 200, "{body}");
    body["spec"].clone()
}

fn path(namespace: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{}", LEASE_NAME)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_operators_that_fight_for_the_lease_exactly_one_leads_at_every_moment() {
    let Some(plane) = control_plane::shared().await else { return };
    let namespace = plane.namespace().await;
    let mut processes = Vec::new();
    for index in 0..4 {
        processes.push(Process::start(plane, &namespace, &format!("p{index}"), None).await);
    }
    let mut leaders = BTreeSet::new();
    for round in 0..4 {
        // Whoever leads is told to go; then the next one has to be there, and never two at once.
        let started = tokio::time::Instant::now();
        let leader = loop {
            let open: Vec<usize> = (0..4).filter(|index| processes[*index].gate.check().is_ok()).collect();
            assert!(open.len() <= 1, "{open:?} would write");
            if let Some(leader) = open.first() {
                break *leader;
            }
            assert!(started.elapsed() < PATIENCE, "nobody leads in round {round}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let spec = lease(plane, &namespace).await;
        assert_eq!(spec["holderIdentity"], format!("p{leader}"));
        assert_eq!(spec["leaseTransitions"], round);
        assert_eq!(spec["leaseDurationSeconds"], 2);
        assert!(leaders.insert(leader), "one that ended leads again");
        processes[leader].stop.cancel();
        let process = &mut processes[leader];
        (&mut process.ended).await.expect("no panic").expect("given up, not lost");
    }
    assert_eq!(lease(plane, &namespace).await["holderIdentity"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_lease_ends_the_lead_at_once_and_nothing_more_is_written() {
    let Some(plane) = control_plane::shared().await else { return };
    let namespace = plane.namespace().await;
    let mut process = Process::start(plane, &namespace, "first", None).await;
    process.leads().await;
    let layers = Layers { gate: Some(process.gate.clone()), ..Layers::default() };
    let guarded = client(plane, None, &layers).await;
    let config_maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> =
        kube::Api::namespaced(guarded, &namespace);
    let object =
        |name: &str| serde_json::from_value(json!({"metadata": {"name": name}})).expect("a ConfigMap");
    config_maps.create(&kube::api::PostParams::default(), &object("a")).await.expect("it leads");
    let theft = json!({"spec": {"holderIdentity": "thief", "renewTime": "2001-01-01T00:00:00.000000Z"}});
    let (code, body) =
        plane.request("PATCH", &path(&namespace), "application/merge-patch+json", &theft.to_string()).await;
    assert_eq!(code, 200, "{body}");
    let error = (&mut process.ended).await.expect("no panic").expect_err("it has lost the lead");
    assert!(matches!(&error, LeaderError::Taken { holder, .. } if holder == "thief"), "{error}");
    let error = config_maps
        .create(&kube::api::PostParams::default(), &object("b"))
        .await
        .expect_err("it does not lead");
    assert!(refused_by_gate(&error).is_some(), "{error}");
    assert_eq!(lease(plane, &namespace).await["holderIdentity"], "thief");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_ends_the_lead_and_the_next_begins_when_it_is_back() {
    let Some(assets) = Assets::find() else {
        control_plane::skip("no kube-apiserver here");
        return;
    };
    let plane = ControlPlane::start(&assets, control_plane::Options { controllers: Vec::new() }).await;
    let namespace = plane.namespace().await;
    let mut first = Process::start(&plane, &namespace, "first", None).await;
    first.leads().await;
    plane.stop_api_server();
    let error = (&mut first.ended).await.expect("no panic").expect_err("it has lost the lead");
    assert!(matches!(error, LeaderError::NotRenewed { .. }), "{error}");
    assert!(first.gate.check().is_err());
    let mut second = Process::start(&plane, &namespace, "second", None).await;
    plane.start_api_server().await;
    second.leads().await;
    assert_eq!(lease(&plane, &namespace).await["holderIdentity"], "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_the_lease_nobody_leads() {
    let Some(plane) = control_plane::shared().await else { return };
    let namespace = plane.namespace().await;
    let process = Process::start(plane, &namespace, "first", Some(plane.token_for("nobody"))).await;
    let started = tokio::time::Instant::now();
    while process.recorder.calls().iter().filter(|(_, code)| *code == 403).count() < 3 {
        assert!(started.elapsed() < PATIENCE, "{:?}", process.recorder.calls());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!process.ended.is_finished() && !*process.leading.borrow() && process.gate.check().is_err());
}
