//! From the SVID to the files.

use std::time::Duration;

use serde_json::json;
use skep_testkit::Recorded;
use skep_testkit::spire::FakeAgent;

use super::harness::{OTHER, Pod, REALM, SCOPE, WEATHER, eventually};

#[tokio::test]
async fn the_server_gets_tokens_with_what_was_written() {
    let pod = Pod::new().await;
    let running = pod.start().await;
    eventually("ready", async || running.ready().await).await;
    assert!(pod.has_credentials_of(WEATHER));
    for (name, mode) in [
        ("shared/client-id.txt", 0o640),
        ("shared/client-secret.txt", 0o640),
        ("shared/secret.txt", 0o640),
        ("shared/ready", 0o644),
    ] {
        assert_eq!(pod.mode(name), mode, "{name}");
    }
    assert_eq!(std::fs::read_dir(pod.path("shared")).unwrap().count(), 4);
    let claims = pod.server_gets_a_token().await;
    assert_eq!(claims["azp"], WEATHER, "{claims}");
    assert_eq!(running.get("/healthz").await.0, 200);
    let status = running.status().await;
    assert_eq!(status["clientId"], WEATHER);
    assert_eq!(pod.keycloak.client(REALM, WEATHER).unwrap()["name"], "demo/weather");
    assert!(pod.keycloak.scope(REALM, SCOPE).is_some());
    assert!(!pod.keycloak.default_scopes(REALM).contains(&SCOPE.to_owned()), "only where that is asked for");
    running.end().await;
    assert!(pod.has_credentials_of(WEATHER), "a client stays when nobody wants it removed");
}

#[tokio::test]
async fn the_svid_and_its_bundle_are_waited_for() {
    let pod = Pod::bare().await;
    let running = pod.start().await;
    running.waits_for("jwt_svid.token is not there yet").await;
    let token = pod.agent.issue_jwt_for(WEATHER, &["kagenti"], Duration::from_secs(300));
    std::fs::write(pod.path("opt/jwt_svid.token"), token).unwrap();
    running.waits_for("jwt_bundle.json is not there yet").await;
    assert_eq!(running.get("/healthz").await.0, 200, "waiting is no illness");
    assert!(pod.keycloak.requests().is_empty(), "nobody is asked before there is an identity");
    pod.write_bundle(&pod.agent.jwks());
    eventually("ready", async || running.ready().await && pod.has_credentials_of(WEATHER)).await;
    running.end().await;
}

#[tokio::test]
async fn the_server_starts_once_it_has_its_credentials_or_can_have_none() {
    let pod = Pod::bare().await;
    let running = pod.start().await;
    running.waits_for("jwt_svid.token is not there yet").await;
    assert!(!running.lets_start().await, "it comes soon");
    pod.write_svid(WEATHER);
    eventually("registered", async || running.lets_start().await).await;
    assert!(pod.has_credentials_of(WEATHER));
    pod.keycloak.outage(true);
    pod.write_svid(OTHER);
    running.waits_for("not registered").await;
    assert!(running.lets_start().await, "a server that runs has started");
    running.end().await;

    let pod = Pod::with_secret(&[]).await;
    let running = pod.start().await;
    running.waits_for("no credentials for Keycloak yet").await;
    assert!(running.lets_start().await, "nobody knows whether they ever come");
    running.end().await;
}

#[tokio::test]
async fn without_settings_it_says_what_is_missing_and_stays_for_a_while() {
    for (name, value, wanted) in [
        ("KEYCLOAK_URL", "", "KEYCLOAK_URL is not set"),
        ("KEYCLOAK_URL", "nonsense", "it is no URL"),
        ("CLIENT_AUTH_TYPE", "magic", "neither client-secret nor federated-jwt"),
    ] {
        let mut pod = Pod::new().await;
        pod.set(name, value);
        let running = pod.start().await;
        running.waits_for(wanted).await;
        assert_eq!(running.get("/healthz").await.0, 200, "{wanted}");
        assert!(running.lets_start().await, "{wanted}");
        assert!(running.get("/status").await.1.contains(wanted));
        running.end().await;
        pod.patience = Duration::from_millis(10);
        assert!(pod.start().await.ended().await, "it is to be started again: {wanted}");
    }
}

#[tokio::test]
async fn an_svid_that_nobody_vouches_for_registers_nobody() {
    let pod = Pod::bare().await;
    let stranger = FakeAgent::start("example.org").await;
    stranger.entry(skep_testkit::spire::Entry::new(WEATHER));
    pod.write_svid(WEATHER);
    let forged = stranger.issue_jwt(&["kagenti"], Duration::from_secs(300));
    std::fs::write(pod.path("opt/jwt_svid.token"), forged).unwrap();
    let running = pod.start().await;
    running.waits_for("does not").await;
    running.another_round().await;
    assert!(pod.keycloak.requests().is_empty());
    assert!(pod.shared("ready").is_empty());
    pod.write_svid(WEATHER);
    eventually("ready", async || pod.has_credentials_of(WEATHER)).await;
    running.end().await;
}

#[tokio::test]
async fn a_renewed_svid_of_the_same_identity_asks_nobody() {
    let mut pod = Pod::new().await;
    pod.interval = Duration::from_secs(3600);
    let running = pod.start().await;
    eventually("ready", async || running.ready().await).await;
    let (asked, rounds) = (pod.keycloak.requests().len(), running.status().await["rounds"].clone());
    pod.agent.rotate_jwt_keys();
    pod.write_svid(WEATHER);
    eventually("it was seen", async || running.status().await["rounds"] != rounds).await;
    assert!(running.ready().await);
    assert_eq!(pod.keycloak.requests().len(), asked);
    running.end().await;
}

#[tokio::test]
async fn another_identity_is_another_client() {
    let mut pod = Pod::new().await;
    pod.interval = Duration::from_secs(3600);
    let running = pod.start().await;
    eventually("ready", async || pod.has_credentials_of(WEATHER)).await;
    pod.write_svid(OTHER);
    eventually("the other's credentials", async || pod.has_credentials_of(OTHER)).await;
    assert_eq!(pod.server_gets_a_token().await["azp"], OTHER);
    let scope = pod.keycloak.scope(REALM, SCOPE).unwrap();
    assert_eq!(scope["protocolMappers"][0]["config"]["included.custom.audience"], OTHER, "it moves along");
    eventually("ready", async || running.ready().await).await;

    // While the new one can't be registered, nobody is told that the files are good.
    pod.keycloak.outage(true);
    pod.write_svid("spiffe://example.org/third");
    running.waits_for("not registered").await;
    assert!(pod.shared("ready").is_empty());
    pod.keycloak.outage(false);
    eventually("the third's credentials", async || pod.has_credentials_of("spiffe://example.org/third"))
        .await;
    running.end().await;
}

#[tokio::test]
async fn a_client_without_a_secret_has_no_secret_to_find() {
    let mut pod = Pod::new().await;
    pod.set("CLIENT_AUTH_TYPE", "federated-jwt");
    std::fs::write(pod.path("shared/secret.txt"), "of old").unwrap();
    pod.keycloak.identity_provider_spiffe(REALM, "spire-spiffe", "example.org", &pod.agent.jwks());
    let running = pod.start().await;
    eventually("ready", async || running.ready().await).await;
    assert_eq!(pod.shared("client-id.txt"), WEATHER);
    assert!(!pod.path("shared/client-secret.txt").exists() && !pod.path("shared/secret.txt").exists());
    let client = pod.keycloak.client(REALM, WEATHER).unwrap();
    assert_eq!(client["attributes"]["jwt.credential.issuer"], "spire-spiffe");
    running.end().await;
}

#[tokio::test]
async fn a_registration_that_is_switched_off_keeps_nobody_waiting() {
    let mut pod = Pod::bare().await;
    pod.set("KEYCLOAK_CLIENT_REGISTRATION_ENABLED", "false");
    let running = pod.start().await;
    eventually("ready", async || pod.shared("ready") == "ready\n").await;
    assert!(running.ready().await);
    assert!(pod.keycloak.requests().is_empty());
    running.end().await;
}

#[tokio::test]
async fn a_name_that_proves_nothing_can_be_a_client_where_that_is_said() {
    let mut pod = Pod::bare().await;
    pod.set("SPIRE_ENABLED", "false");
    pod.set("CLIENT_NAME", "demo/wetter station ä");
    let running = pod.start().await;
    eventually("ready", async || pod.has_credentials_of("demo/wetter station ä")).await;
    assert!(pod.keycloak.scope(REALM, "agent-demo-wetter-station---aud").is_some());
    running.end().await;
}

#[tokio::test]
async fn a_volume_that_cannot_be_written_is_named_and_tried_again() {
    let pod = Pod::new().await;
    std::fs::remove_dir(pod.path("shared")).unwrap();
    let running = pod.start().await;
    running.waits_for("cannot write").await;
    std::fs::create_dir(pod.path("shared")).unwrap();
    eventually("ready", async || running.ready().await && pod.has_credentials_of(WEATHER)).await;
    running.end().await;
}

#[tokio::test]
async fn nothing_secret_is_told() {
    let pod = Pod::new().await;
    let running = pod.start().await;
    eventually("ready", async || running.ready().await).await;
    let secret = pod.secret_of(WEATHER);
    for path in ["/readyz", "/status", "/metrics", "/healthz"] {
        let (_, body) = running.get(path).await;
        assert!(!body.contains(&secret) && !body.contains("hunter2"), "{path}: {body}");
    }
    let in_url = |request: &Recorded| request.target.contains(&secret) || request.target.contains("hunter2");
    assert!(!pod.keycloak.requests().iter().any(in_url));
    assert_ne!(json!(secret), json!(""));
    running.end().await;
}
