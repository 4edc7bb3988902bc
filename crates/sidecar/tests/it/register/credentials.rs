//! As whom the registration comes.

use std::time::{Duration, Instant};

use super::harness::{OTHER, Pod, REALM, SCOPE, WEATHER, eventually};

#[tokio::test]
async fn credentials_are_waited_for_and_read_again() {
    let pod = Pod::with_secret(&[]).await;
    pod.keycloak.service_account(REALM, "registrar", "right", &["manage-clients"]);
    let running = pod.start().await;
    running.waits_for("no credentials for Keycloak yet").await;
    assert!(pod.keycloak.requests().is_empty());
    pod.write_credentials(&[("client-id", "registrar\n")]);
    running.waits_for("has client-id but not client-secret").await;
    pod.write_credentials(&[("client-secret", "wrong\n")]);
    running.waits_for("refuses the login of service account").await;
    pod.write_credentials(&[("client-secret", "right\n")]);
    eventually("ready", async || running.ready().await && pod.has_credentials_of(WEATHER)).await;
    running.end().await;
    assert!(pod.keycloak.client(REALM, WEATHER).is_some());
}

#[tokio::test]
async fn a_wrong_password_locks_nobody_out_and_another_one_is_tried_at_once() {
    let pod = Pod::with_secret(&[("username", "root"), ("password", "hunter3")]).await;
    let running = pod.start().await;
    running.waits_for("refuses the login of administrator").await;
    running.waits_for("not tried again for 10 minutes").await;
    let (_, body) = running.get("/readyz").await;
    assert!(!body.contains("hunter3"), "{body}");
    for _ in 0..3 {
        running.another_round().await;
    }
    // A new SVID changes nothing.
    pod.write_svid(OTHER);
    running.another_round().await;
    assert_eq!(pod.logins(), 1);
    pod.write_credentials(&[("password", "hunter2")]);
    eventually("ready", async || running.ready().await && pod.has_credentials_of(OTHER)).await;
    assert_eq!(pod.logins(), 2);
    running.end().await;
}

#[tokio::test]
async fn a_login_that_may_too_little_is_told_what_it_lacks() {
    let pod = Pod::with_secret(&[("client-id", "viewer"), ("client-secret", "s")]).await;
    pod.keycloak.service_account(REALM, "viewer", "s", &["view-clients"]);
    let running = pod.start().await;
    running.waits_for("role manage-clients").await;
    running.end().await;
}

#[tokio::test]
async fn an_initial_access_token_is_enough_for_a_pods_whole_life() {
    let pod = Pod::with_secret(&[]).await;
    let token = pod.keycloak.initial_access_token(REALM, 3, 0);
    pod.write_credentials(&[("initial-access-token", &token)]);
    let running = pod.start().await;
    eventually("ready", async || pod.has_credentials_of(WEATHER)).await;
    assert!(pod.keycloak.scope(REALM, SCOPE).is_none(), "it may not make scopes, so nobody tries");
    let (_, body) = running.get("/readyz").await;
    assert!(!body.contains("warnings"), "{body}");
    assert_eq!(pod.mode("state/registration/registration.json"), 0o600);
    assert_eq!(pod.mode("state/registration"), 0o700);
    pod.server_gets_a_token().await;

    // A container that dies finds its token again.
    let secret = pod.shared("secret.txt");
    running.kill().await;
    let running = pod.start().await;
    eventually("ready", async || running.ready().await).await;
    assert_eq!(pod.shared("secret.txt"), secret);

    // The client is looked after.
    let renewed = pod.keycloak.rotate_secret(REALM, WEATHER);
    eventually("the new secret", async || pod.shared("secret.txt") == renewed).await;
    pod.keycloak.delete_client(REALM, WEATHER);
    eventually("made again", async || pod.has_credentials_of(WEATHER)).await;

    // At the end it goes, so that the next pod of this identity can register.
    running.end().await;
    assert!(pod.keycloak.client(REALM, WEATHER).is_none());
    std::fs::remove_dir_all(pod.path("state/registration")).unwrap();
    let running = pod.start().await;
    eventually("ready", async || running.ready().await && pod.has_credentials_of(WEATHER)).await;

    // Used up: whoever deletes the client now is told what is needed.
    pod.keycloak.delete_client(REALM, WEATHER);
    running.waits_for("make a new one").await;
    let token = pod.keycloak.initial_access_token(REALM, 1, 0);
    pod.write_credentials(&[("initial-access-token", &token)]);
    eventually("ready", async || running.ready().await && pod.has_credentials_of(WEATHER)).await;
    running.end().await;
}

#[tokio::test]
async fn an_initial_access_token_leaves_a_strangers_client_alone() {
    let pod = Pod::with_secret(&[]).await;
    let token = pod.keycloak.initial_access_token(REALM, 5, 0);
    pod.write_credentials(&[("initial-access-token", &token)]);
    pod.keycloak.put_client(REALM, &serde_json::json!({"clientId": WEATHER, "name": "a stranger's"}));
    let running = pod.start().await;
    running.waits_for("was not registered from here").await;
    assert!(pod.shared("ready").is_empty() && pod.shared("secret.txt").is_empty());
    pod.keycloak.delete_client(REALM, WEATHER);
    eventually("ready", async || running.ready().await && pod.has_credentials_of(WEATHER)).await;
    // With another identity it is another client, and nobody else could remove the former one.
    pod.write_svid(OTHER);
    eventually("the other's credentials", async || pod.has_credentials_of(OTHER)).await;
    eventually("the former is gone", async || pod.keycloak.client(REALM, WEATHER).is_none()).await;
    running.end().await;
    assert!(pod.keycloak.client(REALM, OTHER).is_none());
}

#[tokio::test]
async fn an_identity_that_comes_back_keeps_its_client() {
    let pod = Pod::with_secret(&[]).await;
    let token = pod.keycloak.initial_access_token(REALM, 1, 0);
    pod.write_credentials(&[("initial-access-token", &token)]);
    let running = pod.start().await;
    eventually("ready", async || running.ready().await).await;
    pod.keycloak.outage(true);
    pod.write_svid(OTHER);
    running.waits_for("not registered").await;
    pod.write_svid(WEATHER);
    pod.keycloak.outage(false);
    eventually("ready again", async || running.ready().await && pod.has_credentials_of(WEATHER)).await;
    running.another_round().await;
    assert!(pod.has_credentials_of(WEATHER));
    assert_eq!(pod.keycloak.clients(REALM), [WEATHER]);
    running.end().await;
}

#[tokio::test]
async fn where_the_clients_token_cannot_be_kept_is_said() {
    let mut pod = Pod::with_secret(&[]).await;
    let token = pod.keycloak.initial_access_token(REALM, 1, 0);
    pod.write_credentials(&[("initial-access-token", &token)]);
    std::fs::write(pod.path("state/file"), "").unwrap();
    let nowhere = pod.path("state/file/folder").display().to_string();
    pod.set("STATE_DIR", &nowhere);
    let running = pod.start().await;
    running.warns_of("can't be kept").await;
    assert!(pod.has_credentials_of(WEATHER));
    running.end().await;
    assert!(pod.keycloak.client(REALM, WEATHER).is_none(), "this process still had it");
}

#[tokio::test]
async fn a_client_outlives_the_signal_to_end_for_as_long_as_the_server_may_need_it() {
    let mut pod = Pod::with_secret(&[]).await;
    pod.set("DEREGISTER_DELAY_SECONDS", "1");
    let token = pod.keycloak.initial_access_token(REALM, 1, 0);
    pod.write_credentials(&[("initial-access-token", &token)]);
    let running = pod.start().await;
    eventually("ready", async || running.ready().await).await;
    let told = Instant::now();
    running.end().await;
    assert!(told.elapsed() >= Duration::from_secs(1), "{:?}", told.elapsed());
    assert!(pod.keycloak.client(REALM, WEATHER).is_none());
}

#[tokio::test]
async fn what_the_pod_was_before_goes_too() {
    // Removing it fails at first.
    let mut pod = Pod::new().await;
    pod.set("DEREGISTER_ON_EXIT", "true");
    let running = pod.start().await;
    eventually("ready", async || running.ready().await).await;
    pod.keycloak.refuse_method(Some("DELETE"));
    pod.write_svid(OTHER);
    eventually("the other's credentials", async || pod.has_credentials_of(OTHER)).await;
    running.warns_of("which this pod was before").await;
    running.another_round().await;
    assert!(pod.keycloak.client(REALM, WEATHER).is_some());
    pod.keycloak.refuse_method(None);
    eventually("it is gone", async || pod.keycloak.client(REALM, WEATHER).is_none()).await;
    eventually("nothing is wrong any more", async || !running.get("/readyz").await.1.contains("warnings"))
        .await;

    // The end comes before it could be removed.
    pod.keycloak.refuse_method(Some("DELETE"));
    pod.write_svid(WEATHER);
    running.warns_of("which this pod was before").await;
    pod.keycloak.refuse_method(None);
    running.end().await;
    assert_eq!(pod.keycloak.clients(REALM), Vec::<String>::new());
}

#[tokio::test]
async fn what_the_pod_was_before_goes_also_when_it_became_nothing_else() {
    let pod = Pod::with_secret(&[]).await;
    let token = pod.keycloak.initial_access_token(REALM, 1, 0);
    pod.write_credentials(&[("initial-access-token", &token)]);
    let running = pod.start().await;
    eventually("ready", async || running.ready().await).await;
    pod.write_svid(OTHER);
    running.waits_for("make a new one").await;
    running.end().await;
    assert_eq!(pod.keycloak.clients(REALM), Vec::<String>::new(), "nobody else could remove it");
}
