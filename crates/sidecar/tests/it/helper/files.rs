//! What is in the files, and when it changes.

use std::time::Duration;

use skep_auth::spiffe::AgentAddress;
use skep_testkit::spire::Entry;

use super::harness::{
    ALICE, JWT, JWT_BUNDLE, Pod, X509, agent, ders, eventually, key_ids, same_certificates,
};

#[tokio::test]
async fn everything_is_written_with_the_modes_that_were_asked_for() {
    let agent = agent().await;
    let modes = "cert_file_mode = 0444\nkey_file_mode = 0640\njwt_svid_file_mode = 0604\n";
    let pod = Pod::new(&agent, &format!("{X509}{JWT}{JWT_BUNDLE}{modes}"));
    // Left from somebody with other ideas.
    std::fs::write(pod.path("key.pem"), "old").unwrap();
    let helper = pod.start().await;
    let all = ["bundle.pem", "jwt.token", "jwt_bundle.json", "key.pem", "svid.pem"];
    eventually("all files", async || pod.names() == all && pod.read("key.pem") != "old").await;
    let modes = all.map(|name| pod.mode(name));
    assert_eq!(modes, ["0444", "0604", "0600", "0640", "0444"]);

    let (svid, length) = pod.svid();
    assert_eq!((svid.spiffe_id().to_string().as_str(), length), (ALICE, 1));
    assert!(same_certificates(&pod.read("bundle.pem"), &agent.x509_ca_pem()));

    let token = pod.read("jwt.token");
    assert!(token.split('.').count() == 3 && !token.contains(char::is_whitespace), "{token:?}");
    let claims = pod.claims("jwt.token");
    assert_eq!(claims["sub"], ALICE);
    assert!(claims["aud"].to_string().contains("kagenti"), "{claims}");
    assert_eq!(key_ids(&pod.jwks("jwt_bundle.json", "example.org")), key_ids(&agent.jwks()));
    helper.stop().await.unwrap();
}

#[tokio::test]
async fn a_rotation_replaces_certificate_and_key() {
    let agent = agent().await;
    let pod = Pod::new(&agent, X509);
    let _helper = pod.start().await;
    eventually("the first SVID", async || pod.is_there("svid.pem")).await;
    let (certificate, key) = (pod.read("svid.pem"), pod.read("key.pem"));
    agent.rotate_x509();
    eventually("the next SVID", async || pod.read("svid.pem") != certificate).await;
    assert_ne!(pod.read("key.pem"), key);
    pod.svid();
    assert_eq!(pod.names(), ["bundle.pem", "key.pem", "svid.pem"]);
}

#[tokio::test]
async fn the_certificate_is_the_last_of_the_three_to_change() {
    let agent = agent().await;
    let pod = Pod::new(&agent, X509);
    // What stands in its place shows how far it came.
    std::fs::create_dir(pod.path("svid.pem")).unwrap();
    let _helper = pod.start().await;
    eventually("the other two", async || pod.is_there("bundle.pem") && pod.is_there("key.pem")).await;
    std::fs::remove_dir(pod.path("svid.pem")).unwrap();
    eventually("the certificate", async || !pod.read("svid.pem").is_empty()).await;
    pod.svid();
}

#[tokio::test]
async fn a_new_authority_is_trusted_before_its_certificate_is_there() {
    let agent = agent().await;
    let pod = Pod::new(&agent, X509);
    let _helper = pod.start().await;
    eventually("the first SVID", async || pod.is_there("svid.pem")).await;
    let certificate = pod.read("svid.pem");
    agent.rotate_x509_ca();
    eventually("the next SVID", async || pod.read("svid.pem") != certificate).await;
    let bundle = pod.read("bundle.pem");
    assert_eq!(ders(&bundle, "CERTIFICATE").len(), 2);
    assert!(same_certificates(&bundle, &agent.x509_ca_pem()));
}

#[tokio::test]
async fn intermediates_are_in_the_chain_or_in_the_bundle() {
    let agent = agent().await;
    agent.use_intermediate();
    for (setting, chain, bundle) in [("false", 2, 1), ("true", 1, 2)] {
        let pod = Pod::new(&agent, &format!("{X509}add_intermediates_to_bundle = {setting}\n"));
        let _helper = pod.start().await;
        eventually("the SVID", async || pod.is_there("svid.pem")).await;
        assert_eq!(pod.svid().1, chain);
        assert_eq!(ders(&pod.read("bundle.pem"), "CERTIFICATE").len(), bundle);
    }
}

#[tokio::test]
async fn federated_authorities_are_in_the_bundle_when_asked_for_and_as_long_as_they_are_federated() {
    let agent = agent().await;
    agent.federate("partner.example");
    let without = Pod::new(&agent, X509);
    let with = Pod::new(&agent, &format!("{X509}{JWT_BUNDLE}include_federated_domains = true\n"));
    let _helpers = (without.start().await, with.start().await);
    eventually("both SVIDs", async || without.is_there("svid.pem") && with.is_there("svid.pem")).await;
    assert!(same_certificates(&without.read("bundle.pem"), &agent.x509_ca_pem()));
    let both = format!("{}{}", agent.x509_ca_pem(), agent.federated_ca_pem("partner.example"));
    assert!(same_certificates(&with.read("bundle.pem"), &both));
    eventually("the JWT bundles", async || with.is_there("jwt_bundle.json")).await;
    let partner = key_ids(&with.jwks("jwt_bundle.json", "partner.example"));
    assert_eq!(partner, key_ids(&agent.federated_jwks("partner.example")));
    agent.unfederate("partner.example");
    eventually("the end of the federation", async || {
        same_certificates(&with.read("bundle.pem"), &agent.x509_ca_pem())
            && !with.read("jwt_bundle.json").contains("partner.example")
    })
    .await;
}

#[tokio::test]
async fn a_hint_chooses_between_identities() {
    let agent = agent().await;
    let other = "spiffe://example.org/ns/demo/sa/external";
    agent.entry(Entry::new(other).hint("external"));
    let pod = Pod::new(&agent, &format!("{X509}{JWT}hint = \"external\"\n"));
    let _helper = pod.start().await;
    eventually("both files", async || pod.is_there("svid.pem") && pod.is_there("jwt.token")).await;
    assert_eq!(pod.svid().0.spiffe_id().to_string(), other);
    assert_eq!(pod.claims("jwt.token")["sub"], other);
}

#[tokio::test]
async fn a_token_is_fetched_again_at_half_of_its_life() {
    let agent = agent().await;
    agent.entry(Entry::new(ALICE).ttl(Duration::from_secs(4)));
    let pod = Pod::new(&agent, JWT);
    let _helper = pod.start().await;
    eventually("the first token", async || pod.is_there("jwt.token")).await;
    let expiry = pod.claims("jwt.token")["exp"].as_i64().unwrap();
    let calls = agent.calls("FetchJWTSVID");
    assert_eq!(calls, 1);
    eventually("the next token", async || pod.claims("jwt.token")["exp"].as_i64().unwrap() > expiry).await;
    // Before the first had expired: half of four seconds, and one.
    assert!(pod.claims("jwt.token")["exp"].as_i64().unwrap() <= expiry + 3);
}

#[tokio::test]
async fn a_token_whose_key_was_taken_back_is_fetched_again_at_once() {
    let agent = agent().await;
    let pod = Pod::new(&agent, &format!("{JWT}{JWT_BUNDLE}"));
    let _helper = pod.start().await;
    eventually("both", async || pod.is_there("jwt.token") && pod.is_there("jwt_bundle.json")).await;
    let token = pod.read("jwt.token");
    // A new key beside the old one leaves the token as it is.
    agent.rotate_jwt_keys();
    eventually("two keys", async || key_ids(&pod.jwks("jwt_bundle.json", "example.org")).len() == 2).await;
    assert_eq!(pod.read("jwt.token"), token);
    agent.revoke_jwt_keys();
    eventually("another token", async || pod.read("jwt.token") != token).await;
}

#[tokio::test]
async fn several_tokens_have_their_own_audiences() {
    let agent = agent().await;
    let pod = Pod::new(
        &agent,
        "jwt_svids {\n jwt_audience = \"one\"\n jwt_extra_audiences = [\"more\"]\n jwt_svid_file_name = \"one\"\n}\n\
         jwt_svids {\n jwt_audience = \"two\"\n jwt_svid_file_name = \"two\"\n}\n",
    );
    let _helper = pod.start().await;
    eventually("both tokens", async || pod.is_there("one") && pod.is_there("two")).await;
    assert_eq!(pod.claims("one")["aud"], serde_json::json!(["one", "more"]));
    assert!(pod.claims("two")["aud"].to_string().contains("two"));
}

#[tokio::test]
async fn the_command_line_can_name_one_more_file_for_the_jwt_bundles() {
    let agent = agent().await;
    let mut pod = Pod::new(&agent, JWT);
    let path = pod.path("for_registration.json");
    pod.settings().jwt_bundle_file = Some(path);
    let _helper = pod.start().await;
    eventually("the bundles", async || pod.is_there("for_registration.json")).await;
    assert_eq!(pod.mode("for_registration.json"), "0644");
    assert_eq!(key_ids(&pod.jwks("for_registration.json", "example.org")), key_ids(&agent.jwks()));
}

#[tokio::test]
async fn the_environment_says_where_the_agent_is_when_the_file_does_not() {
    let agent = agent().await;
    let mut pod = Pod::new(&agent, "");
    let config = pod.settings().config.clone();
    std::fs::write(&config, format!("cert_dir = \"{}\"\n{JWT}", pod.path("").display())).unwrap();
    pod.settings().endpoint_socket = Some(agent.endpoint());
    assert_eq!(AgentAddress::parse(&agent.endpoint()).unwrap().socket(), Some(agent.socket()));
    let _helper = pod.start().await;
    eventually("the token", async || pod.is_there("jwt.token")).await;
}
