//! What goes wrong with Keycloak, and is put right.

use serde_json::json;
use skep_testkit::idp::Outage;

use super::harness::{Pod, REALM, SCOPE, WEATHER, eventually};

#[tokio::test]
async fn a_keycloak_that_is_down_at_the_start_is_waited_for() {
    let pod = Pod::new().await;
    pod.keycloak.fail(Outage::Refused).await;
    let running = pod.start().await;
    running.waits_for("cannot reach Keycloak").await;
    pod.keycloak.up().await;
    eventually("ready", async || running.ready().await && pod.has_credentials_of(WEATHER)).await;
    running.end().await;
}

#[tokio::test]
async fn an_outage_later_leaves_the_credentials_in_use() {
    let pod = Pod::new().await;
    let running = pod.start().await;
    eventually("ready", async || running.ready().await).await;
    pod.keycloak.outage(true);
    running.warns_of("at the moment").await;
    assert_eq!(pod.shared("ready"), "ready\n");
    // What happens meanwhile is found out afterwards.
    pod.keycloak.delete_client(REALM, WEATHER);
    pod.keycloak.outage(false);
    eventually("healed", async || pod.has_credentials_of(WEATHER)).await;
    eventually("nothing is wrong any more", async || {
        let (status, body) = running.get("/readyz").await;
        status == 200 && !body.contains("warnings")
    })
    .await;
    pod.server_gets_a_token().await;
    running.end().await;
}

#[tokio::test]
async fn what_happens_behind_our_back_is_put_right() {
    let pod = Pod::new().await;
    let running = pod.start().await;
    eventually("ready", async || pod.has_credentials_of(WEATHER)).await;
    let first = pod.secret_of(WEATHER);

    pod.keycloak.delete_client(REALM, WEATHER);
    eventually("made again", async || pod.has_credentials_of(WEATHER)).await;
    assert_ne!(pod.shared("secret.txt"), first);

    let renewed = pod.keycloak.rotate_secret(REALM, WEATHER);
    eventually("the new secret", async || pod.shared("client-secret.txt") == renewed).await;

    let changes = json!({"serviceAccountsEnabled": false, "fullScopeAllowed": true});
    pod.keycloak.change_client(REALM, WEATHER, &changes);
    eventually("the settings", async || {
        let client = pod.keycloak.client(REALM, WEATHER).unwrap();
        client["serviceAccountsEnabled"] == true && client["fullScopeAllowed"] == false
    })
    .await;
    pod.server_gets_a_token().await;

    pod.keycloak.revoke_tokens("master");
    running.another_round().await;
    assert!(running.ready().await, "a login that was ended is done again");

    // Files that somebody wrote over or removed.
    std::fs::write(pod.path("shared/client-secret.txt"), "wrong").unwrap();
    std::fs::remove_file(pod.path("shared/client-id.txt")).unwrap();
    eventually("the files", async || pod.has_credentials_of(WEATHER)).await;
    running.end().await;
}

#[tokio::test]
async fn a_realm_that_is_missing_is_named_until_it_is_there() {
    let mut pod = Pod::new().await;
    pod.set("KEYCLOAK_REALM", "later");
    let running = pod.start().await;
    running.waits_for("Keycloak has no realm \\\"later\\\"").await;
    pod.keycloak.realm("later");
    eventually("ready", async || running.ready().await).await;
    assert!(pod.keycloak.client("later", WEATHER).is_some());
    running.end().await;
}

#[tokio::test]
async fn a_container_that_was_killed_goes_on_where_it_was() {
    let pod = Pod::new().await;
    let running = pod.start().await;
    eventually("ready", async || running.ready().await).await;
    let secret = pod.shared("secret.txt");
    running.kill().await;
    // Left over from a write that did not end.
    std::fs::write(pod.path("shared/.secret.txt.new"), "half").unwrap();
    let running = pod.start().await;
    eventually("ready", async || running.ready().await).await;
    assert_eq!(pod.shared("secret.txt"), secret);
    running.end().await;
}

#[tokio::test]
async fn two_replicas_are_one_client() {
    let pod = Pod::new().await;
    pod.keycloak.race_next_create();
    let (one, other) = (pod.start().await, pod.start().await);
    eventually("both ready", async || one.ready().await && other.ready().await).await;
    assert!(pod.has_credentials_of(WEATHER));
    assert_eq!(pod.keycloak.clients(REALM), [WEATHER]);
    one.end().await;
    other.end().await;
}

#[tokio::test]
async fn a_client_is_removed_at_the_end_where_that_is_wanted() {
    let mut pod = Pod::new().await;
    pod.set("DEREGISTER_ON_EXIT", "true");
    let running = pod.start().await;
    eventually("ready", async || running.ready().await).await;
    assert!(pod.keycloak.scope(REALM, SCOPE).is_some());
    running.end().await;
    assert!(pod.keycloak.client(REALM, WEATHER).is_none() && pod.keycloak.scope(REALM, SCOPE).is_none());
    assert!(pod.shared("ready").is_empty(), "the credentials are good no longer");

    // Keycloak has the last word, not the end.
    let running = pod.start().await;
    eventually("ready", async || running.ready().await).await;
    pod.keycloak.outage(true);
    running.end().await;
    pod.keycloak.outage(false);
    assert!(pod.keycloak.client(REALM, WEATHER).is_some());
}
