//! Agents that are away, refuse or send nonsense, and folders that can't be written to.

use std::sync::Arc;
use std::time::Duration;

use skep_runtime::clock::{Clock as _, SystemClock};
use skep_runtime::logging::chain;
use skep_sidecar::helper::{Helper, HelperError};
use skep_testkit::spire::{Entry, FakeAgent};
use skep_testkit::{ManualClock, SeededRng};
use tonic::Code;

use super::harness::{ALICE, JWT, JWT_BUNDLE, Pod, X509, agent, eventually};
use super::health::{HEALTH, ask};

const ALL: [&str; 3] = [X509, JWT, JWT_BUNDLE];

fn is_complete(pod: &Pod) -> bool {
    ["svid.pem", "jwt.token", "jwt_bundle.json"].iter().all(|name| pod.is_there(name))
}

#[tokio::test]
async fn an_agent_that_is_down_at_the_start_is_waited_for() {
    let agent = FakeAgent::stopped("example.org");
    agent.entry(Entry::new(ALICE));
    let pod = Pod::new(&agent, &ALL.concat());
    let helper = pod.start().await;
    assert!(pod.names().is_empty());
    agent.restart().await;
    eventually("all files", async || is_complete(&pod)).await;
    helper.stop().await.unwrap();
}

#[tokio::test]
async fn a_restart_of_the_agent_is_survived_and_changes_nothing_that_stayed_the_same() {
    let agent = agent().await;
    let pod = Pod::new(&agent, &ALL.concat());
    let _helper = pod.start().await;
    eventually("all files", async || is_complete(&pod)).await;
    let before = (pod.inode("svid.pem"), pod.inode("bundle.pem"), pod.inode("jwt_bundle.json"));
    let calls = agent.calls("FetchX509SVID");
    agent.stop().await;
    agent.restart().await;
    agent.wait_for_calls("FetchX509SVID", calls + 1).await;
    agent.rotate_jwt_keys();
    let keys = || super::harness::key_ids(&pod.jwks("jwt_bundle.json", "example.org")).len();
    eventually("the next bundles", async || keys() == 2).await;
    assert_eq!((pod.inode("svid.pem"), pod.inode("bundle.pem")), (before.0, before.1));
    assert_ne!(pod.inode("jwt_bundle.json"), before.2);
    let certificate = pod.read("svid.pem");
    agent.rotate_x509();
    eventually("the next SVID", async || pod.read("svid.pem") != certificate).await;
}

#[tokio::test]
async fn a_missing_identity_is_waited_for() {
    let agent = FakeAgent::start("example.org").await;
    let pod = Pod::new(&agent, &ALL.concat());
    let helper = pod.start().await;
    for method in ["FetchX509SVID", "FetchJWTSVID", "FetchJWTBundles"] {
        agent.wait_for_calls(method, 2).await;
    }
    assert!(pod.names().is_empty() && helper.is_running());
    agent.entry(Entry::new(ALICE));
    eventually("all files", async || is_complete(&pod)).await;
    // Taken away for a while: the files stay, and the next identity is written.
    let certificate = pod.read("svid.pem");
    agent.deny(true);
    agent.wait_for_calls("FetchX509SVID", agent.calls("FetchX509SVID") + 2).await;
    assert_eq!(pod.read("svid.pem"), certificate);
    agent.rotate_x509();
    agent.deny(false);
    eventually("the next SVID", async || pod.read("svid.pem") != certificate).await;
    helper.stop().await.unwrap();
}

#[tokio::test]
async fn a_busy_agent_is_asked_again() {
    let agent = agent().await;
    for code in [Code::Unavailable, Code::Internal, Code::ResourceExhausted, Code::DeadlineExceeded] {
        agent.fail(Some(code));
        let pod = Pod::new(&agent, &ALL.concat());
        let _helper = pod.start().await;
        agent.wait_for_calls("FetchX509SVID", agent.calls("FetchX509SVID") + 2).await;
        agent.fail(None);
        eventually("all files", async || is_complete(&pod)).await;
    }
}

#[tokio::test]
async fn a_refusal_that_waiting_does_not_change_ends_the_helper() {
    let agent = agent().await;
    for (output, code) in [
        (X509, Code::Unimplemented),
        (X509, Code::InvalidArgument),
        (JWT, Code::InvalidArgument),
        (JWT_BUNDLE, Code::Unimplemented),
    ] {
        agent.fail(Some(code));
        let pod = Pod::new(&agent, output);
        let error = pod.start().await.ended().await.unwrap_err();
        assert!(matches!(error, HelperError::Output { .. }), "{error:?}");
        assert!(chain(&error).contains("refuses to give"), "{}", chain(&error));
    }
}

#[tokio::test]
async fn a_key_that_is_not_that_of_its_certificate_is_never_written() {
    let agent = agent().await;
    let pod = Pod::new(&agent, &format!("{X509}{HEALTH}"));
    let helper = pod.start().await;
    eventually("the SVID", async || pod.is_there("svid.pem")).await;
    let before = (pod.read("svid.pem"), pod.read("key.pem"));
    agent.mismatch_x509_keys();
    let status = async || ask(helper.health(), "GET", "/ready").await.1["file_write_statuses"].to_string();
    eventually("a complaint", async || status().await.contains(r#""x509_write_status":"failed""#)).await;
    assert_eq!((pod.read("svid.pem"), pod.read("key.pem")), before);
    agent.rotate_x509();
    eventually("a whole SVID", async || pod.read("svid.pem") != before.0).await;
    pod.svid();
    eventually("no complaint", async || status().await.contains(r#""x509_write_status":"written""#)).await;
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_waited_for() {
    let agent = agent().await;
    let pod = Pod::new(&agent, &format!("{}{}{}", X509, JWT, JWT_BUNDLE));
    std::fs::remove_dir(pod.path("")).unwrap();
    let helper = pod.start().await;
    agent.wait_for_calls("FetchJWTSVID", 3).await;
    assert!(helper.is_running());
    std::fs::create_dir(pod.path("")).unwrap();
    eventually("all files", async || is_complete(&pod)).await;
}

#[tokio::test]
async fn a_file_that_somebody_removed_comes_back_with_the_next_message() {
    let agent = agent().await;
    let pod = Pod::new(&agent, X509);
    let _helper = pod.start().await;
    eventually("the SVID", async || pod.is_there("svid.pem")).await;
    std::fs::remove_file(pod.path("bundle.pem")).unwrap();
    agent.stop().await;
    agent.restart().await;
    eventually("the bundle", async || pod.is_there("bundle.pem")).await;
}

#[tokio::test]
async fn expired_authorities_can_be_left_out() {
    let agent = agent().await;
    let clock = ManualClock::at(SystemClock.unix_seconds());
    clock.advance(Duration::from_secs(200 * 365 * 24 * 3600));
    let keep = Pod::new(&agent, X509).with_clock(Arc::new(clock.clone()));
    let omit = Pod::new(&agent, &format!("{X509}omit_expired = true\n")).with_clock(Arc::new(clock));
    let _helpers = (keep.start().await, omit.start().await);
    eventually("both", async || keep.is_there("svid.pem") && omit.is_there("svid.pem")).await;
    assert!(!keep.read("bundle.pem").is_empty());
    assert!(omit.read("bundle.pem").is_empty());
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_ends_the_helper_before_it_begins() {
    let agent = agent().await;
    let pod = Pod::new(&agent, "svid_file = \"a\"\n");
    let mut missing = Pod::new(&agent, "");
    missing.settings().config = missing.beside("nothing.conf");
    let mut twice = Pod::new(&agent, X509);
    twice.settings().jwt_bundle_file = Some(twice.path("svid.pem"));
    let mut address = Pod::new(&agent, "");
    std::fs::write(&address.settings().config, JWT_BUNDLE).unwrap();
    address.settings().endpoint_socket = Some("https://agent".to_owned());
    for (mut pod, wanted) in [
        (pod, "helper.conf:3: `svid_file` is no key of this file (did you mean `svid_file_name`?)"),
        (missing, "cannot read the configuration file"),
        (twice, "is to be written twice"),
        (address, "the environment says where the SPIFFE agent is, but not how it should: `https://agent`"),
    ] {
        let settings = pod.settings().clone();
        let error =
            Helper::start(settings, SystemClock::shared(), Arc::new(SeededRng::new(1))).await.unwrap_err();
        assert!(chain(&error).contains(wanted), "{}", chain(&error));
    }
}
