//! Health checks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use skep_runtime::clock::{Clock as _, SystemClock};
use skep_testkit::spire::{Entry, FakeAgent};
use skep_testkit::{ManualClock, RawConnection};

use super::harness::{ALICE, JWT, Pod, X509, agent, eventually};

pub(super) const HEALTH: &str = "health_checks {\n listener_enabled = true\n bind_port = 0\n}\n";

pub(super) async fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, Value) {
    let loopback = SocketAddr::from(([127, 0, 0, 1], address.port()));
    let mut connection = RawConnection::open(loopback).await;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n");
    connection.send(request.as_bytes()).await;
    let answer = connection.read_answer().await;
    (answer.status, serde_json::from_slice(answer.body.as_ref()).unwrap_or(Value::Null))
}

#[tokio::test]
async fn a_pod_is_ready_when_all_is_written_and_live_before() {
    let agent = FakeAgent::start("example.org").await;
    let pod = Pod::new(&agent, &format!("{X509}{JWT}{HEALTH}"));
    let helper = pod.start().await;
    let address = helper.health();
    eventually("a complaint", async || {
        ask(address, "GET", "/ready").await.1["problems"] != serde_json::json!({})
    })
    .await;
    assert_eq!(ask(address, "GET", "/ready").await.0, 503);
    assert_eq!(ask(address, "GET", "/live").await.0, 200);
    agent.entry(Entry::new(ALICE));
    eventually("readiness", async || ask(address, "GET", "/ready").await.0 == 200).await;
    let (_, body) = ask(address, "GET", "/live").await;
    let token = pod.path("jwt.token").display().to_string();
    assert_eq!(body["file_write_statuses"]["x509_write_status"], "written");
    assert_eq!(body["file_write_statuses"]["jwt_write_status"][token], "written");
    assert_eq!(ask(address, "POST", "/live").await.0, 405);
    assert_eq!(ask(address, "GET", "/healthz").await.0, 404);
    helper.stop().await.unwrap();
    let loopback = SocketAddr::from(([127, 0, 0, 1], address.port()));
    assert!(tokio::net::TcpStream::connect(loopback).await.is_err());
}

#[tokio::test]
async fn an_svid_that_should_long_be_renewed_ends_liveness_and_one_that_expired_ends_readiness() {
    let agent = agent().await;
    agent.entry(Entry::new(ALICE).ttl(Duration::from_hours(1)));
    let clock = ManualClock::at(SystemClock.unix_seconds());
    let pod = Pod::new(&agent, &format!("{X509}{HEALTH}")).with_clock(Arc::new(clock.clone()));
    let helper = pod.start().await;
    let address = helper.health();
    eventually("readiness", async || ask(address, "GET", "/ready").await.0 == 200).await;
    agent.stop().await;
    clock.advance(Duration::from_mins(58));
    assert_eq!(ask(address, "GET", "/live").await.0, 503);
    assert_eq!(ask(address, "GET", "/ready").await.0, 200);
    clock.advance(Duration::from_mins(3));
    assert_eq!(ask(address, "GET", "/ready").await.0, 503);
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_to_be() {
    let agent = agent().await;
    let first = Pod::new(&agent, &format!("{JWT}{HEALTH}"));
    let running = first.start().await;
    let port = running.health().port();
    let taken = HEALTH.replace("bind_port = 0", &format!("bind_port = {port}"));
    let mut second = Pod::new(&agent, &format!("{JWT}{taken}"));
    let settings = second.settings().clone();
    let rng = Arc::new(skep_testkit::SeededRng::new(1));
    let error = skep_sidecar::helper::Helper::start(settings, SystemClock::shared(), rng).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on port {port} for health checks"));
}
