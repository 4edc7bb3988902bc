//! Finding and fetching an issuer's keys.

use std::sync::Arc;

use serde_json::{Value, json};
use skep_api::address::{Egress, Reach};
use skep_auth::client::{ClientConfig, GuardedClient};
use skep_auth::names::Issuer;
use skep_auth::pins::Pins;
use skep_auth::provider::{KeyProvider, KeySource};
use skep_testkit::idp::Alg;
use skep_testkit::{FakeIdp, ManualClock, Reply, ScriptedServer, TestCa, Tls};
use url::Url;

fn provider(issuer: &str, change: impl FnOnce(&mut KeySource)) -> Arc<KeyProvider> {
    let mut config = ClientConfig::new(Egress { loopback: true, deny: Vec::new() });
    config.reach = Reach { http: true, private: true };
    let mut source = KeySource {
        issuer: Issuer::parse(issuer, true).unwrap(),
        jwks_url: None,
        discovery_url: None,
        token_file: None,
    };
    change(&mut source);
    KeyProvider::new(source, GuardedClient::new(config).unwrap(), Arc::new(ManualClock::default()))
}

/// A server whose documents are made from its own address.
async fn issuer(documents: fn(&str, &str) -> Option<Value>) -> ScriptedServer {
    let server = ScriptedServer::start(|_| Reply::status(404)).await;
    let base = server.url("");
    server.set_handler(move |request| match documents(request.path(), &base) {
        Some(document) => Reply::json(&document),
        None => Reply::status(404),
    });
    server
}

async fn a_key() -> Value {
    FakeIdp::start().await.key(Alg::Es256).jwk(true)
}

#[tokio::test]
async fn an_issuer_without_openid_metadata_is_found_by_its_oauth_metadata() {
    let key = a_key().await;
    let server = issuer(|path, base| match path {
        "/.well-known/oauth-authorization-server/tenant" => {
            Some(json!({"issuer": format!("{base}/tenant"), "jwks_uri": format!("{base}/keys")}))
        }
        _ => None,
    })
    .await;
    let provider_of = || provider(&server.url("/tenant"), |_| {});
    assert!(provider_of().keys().await.is_err(), "the keys themselves are missing");
    let base = server.url("");
    server.set_handler(move |request| match request.path() {
        "/.well-known/oauth-authorization-server/tenant" => {
            Reply::json(&json!({"issuer": format!("{base}/tenant"), "jwks_uri": format!("{base}/keys")}))
        }
        "/keys" => Reply::json(&json!({"keys": [key]})),
        _ => Reply::status(404),
    });
    let keys = provider_of().keys().await.unwrap();
    assert_eq!(keys.keys.len(), 1);
    let asked: Vec<String> = server.requests().iter().map(|request| request.target.clone()).collect();
    assert!(asked.contains(&"/tenant/.well-known/openid-configuration".to_owned()), "{asked:?}");
}

#[tokio::test]
async fn metadata_that_is_wrong_gives_no_keys() {
    let table: [fn(&str, &str) -> Option<Value>; 6] = [
        |_, _| Some(json!({})),
        |_, _| Some(json!([])),
        |_, base| Some(json!({"issuer": base})),
        |_, base| Some(json!({"issuer": base, "jwks_uri": "not a url"})),
        |_, base| Some(json!({"issuer": base, "jwks_uri": "file:///etc/passwd"})),
        |_, base| Some(json!({"issuer": format!("{base}/other"), "jwks_uri": format!("{base}/keys")})),
    ];
    for documents in table {
        let server = issuer(documents).await;
        let provider = provider(&server.url(""), |_| {});
        assert!(provider.keys().await.is_err());
        assert!(!provider.has_keys());
        assert_eq!(provider.failures(), 1);
        assert!(server.requests().iter().all(|request| request.path() != "/keys"));
    }
}

#[tokio::test]
async fn metadata_may_not_send_us_to_metadata_services() {
    let server = issuer(|_, base| {
        Some(json!({"issuer": base, "jwks_uri": "http://169.254.169.254/latest/meta-data"}))
    })
    .await;
    assert!(provider(&server.url(""), |_| {}).keys().await.is_err());
}

#[tokio::test]
async fn the_token_for_the_key_endpoint_is_read_each_time_and_only_sent_there() {
    let idp = FakeIdp::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "first\n").unwrap();
    let provider = provider(idp.issuer(), |source| {
        source.jwks_url = Some(Url::parse(&idp.jwks_url()).unwrap());
        source.token_file = Some(path.clone());
    });
    let first = provider.keys().await.unwrap();
    std::fs::write(&path, "second\n").unwrap();
    provider.keys_with_unknown(first.generation, || true).await.unwrap();
    let seen: Vec<_> = idp.server().requests();
    let sent: Vec<_> = seen.iter().map(|request| request.header("authorization").unwrap()).collect();
    assert_eq!(sent, ["Bearer first", "Bearer second"]);
    assert_eq!(
        provider.keys().await.unwrap().generation,
        first.generation,
        "the same document is no new one"
    );
}

#[tokio::test]
async fn an_api_server_is_shown_the_token_and_asked_where_it_was_named() {
    // A cluster's document names another of its addresses, which nobody named here.
    let elsewhere = ScriptedServer::start(|_| Reply::status(404)).await;
    let idp = FakeIdp::start().await;
    let document = json!({
        "issuer": idp.issuer(), "jwks_uri": elsewhere.url("/jwks"),
    });
    let keys = json!({"keys": [a_key().await]});
    idp.server().set_handler(move |request| match request.path() {
        "/.well-known/openid-configuration" => Reply::json(&document),
        "/jwks" => Reply::json(&keys),
        _ => Reply::status(404),
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "pod-token").unwrap();
    let with_token = provider(idp.issuer(), |source| source.token_file = Some(file.path().to_owned()));
    with_token.keys().await.unwrap();
    let sent: Vec<_> = idp
        .server()
        .requests()
        .iter()
        .map(|request| (request.path().to_owned(), request.header("authorization").map(str::to_owned)))
        .collect();
    let token = Some("Bearer pod-token".to_owned());
    assert_eq!(
        sent,
        [("/.well-known/openid-configuration".to_owned(), token.clone()), ("/jwks".to_owned(), token)]
    );
    assert!(elsewhere.requests().is_empty(), "the token never goes where only a document points");
    assert!(provider(idp.issuer(), |_| {}).keys().await.is_err(), "without a token the document is followed");
    assert_eq!(elsewhere.requests().len(), 1);
}

#[tokio::test]
async fn an_issuer_that_does_not_show_its_pinned_key_is_not_believed() {
    let ca = TestCa::new();
    let certificate = ca.server(&["127.0.0.1"]);
    let idp = FakeIdp::over_tls(Arc::new(ManualClock::default()), &Tls::with(&certificate)).await;
    let hash = |bytes: &[u8]| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    for (pin, fine) in [(hash(certificate.der()), true), (hash(b"another"), false)] {
        let mut config = ClientConfig::new(Egress { loopback: true, deny: Vec::new() });
        config.reach.private = true;
        config.ca_pem = Some(ca.pem().into_bytes());
        config.pins = Pins::parse(&[], &pin).unwrap();
        let source = KeySource {
            issuer: Issuer::parse(idp.issuer(), false).unwrap(),
            jwks_url: None,
            discovery_url: None,
            token_file: None,
        };
        let client = GuardedClient::new(config).unwrap();
        let provider = KeyProvider::new(source, client, Arc::new(ManualClock::default()));
        assert_eq!(provider.keys().await.is_ok(), fine);
        assert_eq!((provider.has_keys(), provider.had_keys()), (fine, fine));
    }
    assert_eq!((idp.discovery_hits(), idp.jwks_hits()), (1, 1), "the second was not even asked");
}
