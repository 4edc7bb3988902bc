//! One-shot mode, as an init container has it.

use skep_runtime::logging::chain;
use skep_sidecar::helper::HelperError;
use skep_testkit::spire::{Entry, FakeAgent};

use super::harness::{ALICE, JWT_BUNDLE, Pod, X509, agent};

const EXTRA: &str = "jwt_svids = [{jwt_audience = \"a\", jwt_extra_audiences = [\"b\"], \
                     jwt_svid_file_name = \"jwt.token\"}]\n";

#[tokio::test]
async fn everything_is_written_once_and_the_helper_ends() {
    let agent = agent().await;
    let mut pod = Pod::new(&agent, &format!("{X509}{EXTRA}{JWT_BUNDLE}cmd = \"/bin/false\"\n"));
    pod.once().await.unwrap();
    assert_eq!(pod.names(), ["bundle.pem", "jwt.token", "jwt_bundle.json", "key.pem", "svid.pem"]);
    assert_eq!(pod.claims("jwt.token")["aud"], serde_json::json!(["a", "b"]));
    assert_eq!(agent.calls("FetchJWTSVID"), 1);
}

#[tokio::test]
async fn the_file_can_ask_for_it_and_the_command_line_decides() {
    let agent = agent().await;
    let pod = Pod::new(&agent, &format!("{JWT_BUNDLE}daemon_mode = false\n"));
    pod.start().await.ended().await.unwrap();
    assert!(pod.is_there("jwt_bundle.json"));
    let mut pod = Pod::new(&agent, &format!("{JWT_BUNDLE}daemon_mode = false\n"));
    pod.settings().daemon = Some(true);
    let helper = pod.start().await;
    super::harness::eventually("the bundle", async || pod.is_there("jwt_bundle.json")).await;
    assert!(helper.is_running());
}

#[tokio::test]
async fn an_identity_and_an_agent_are_waited_for() {
    let agent = FakeAgent::stopped("example.org");
    let mut pod = Pod::new(&agent, &format!("{X509}{EXTRA}"));
    let started = async {
        agent.restart().await;
        agent.wait_for_calls("FetchX509SVID", 2).await;
        agent.entry(Entry::new(ALICE));
    };
    let (ended, ()) = tokio::join!(pod.once(), started);
    ended.unwrap();
    assert!(pod.is_there("svid.pem") && pod.is_there("jwt.token"));
}

#[tokio::test]
async fn what_will_not_change_by_waiting_is_an_error() {
    let agent = agent().await;
    let mut hint = Pod::new(&agent, &format!("{X509}hint = \"internal\"\n"));
    let error = chain(&hint.once().await.unwrap_err());
    let wanted = "none of the workload's SVIDs has the hint `internal`; there is \
                  spiffe://example.org/ns/demo/sa/alice without one";
    assert!(error.contains(wanted), "{error}");
    for output in [X509, EXTRA, JWT_BUNDLE] {
        let mut folder = Pod::new(&agent, output);
        std::fs::remove_dir(folder.path("")).unwrap();
        let error = chain(&folder.once().await.unwrap_err());
        assert!(error.contains("has to be made or mounted before"), "{error}");
    }
}

#[tokio::test]
async fn an_end_before_everything_is_written_is_no_success() {
    let agent = FakeAgent::start("example.org").await;
    let mut pod = Pod::new(&agent, X509);
    pod.settings().daemon = Some(false);
    let helper = pod.start().await;
    agent.wait_for_calls("FetchX509SVID", 1).await;
    assert!(matches!(helper.stop().await, Err(HelperError::Stopped)));
}
