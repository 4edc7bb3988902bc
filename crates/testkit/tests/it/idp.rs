use std::collections::HashSet;
use std::net::SocketAddr;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use skep_testkit::idp::Alg;
use skep_testkit::{FakeIdp, Outage, TokenSpec, raw};

fn address(idp: &FakeIdp) -> SocketAddr {
    idp.server().address()
}

async fn verify(idp: &FakeIdp, token: &str, alg: Algorithm) -> Result<Value, jsonwebtoken::errors::Error> {
    let answer = raw::get(address(idp), "/jwks").await;
    let set: JwkSet = serde_json::from_slice(&answer.body).unwrap();
    let kid = decode_header(token)?.kid.unwrap();
    let key = DecodingKey::from_jwk(set.find(&kid).expect("a published key"))?;
    let mut validation = Validation::new(alg);
    validation.set_audience(&["https://mcp.example"]);
    validation.set_issuer(&[idp.issuer()]);
    validation.validate_nbf = true;
    decode(token, &key, &validation).map(|token| token.claims)
}

#[tokio::test]
async fn a_valid_token_of_each_algorithm_verifies_against_the_published_keys() {
    let idp = FakeIdp::start().await;
    let table = [
        (Alg::Rs256, Algorithm::RS256),
        (Alg::Ps256, Algorithm::PS256),
        (Alg::Es256, Algorithm::ES256),
        (Alg::EdDsa, Algorithm::EdDSA),
    ];
    for (alg, verified_as) in table {
        let token = idp.mint(&TokenSpec::valid("alice", "https://mcp.example").alg(alg));
        let claims = verify(&idp, &token, verified_as).await.unwrap();
        assert_eq!(claims["sub"], "alice", "{alg:?}");
    }
}

#[tokio::test]
async fn each_bad_token_is_bad_in_the_way_it_says() {
    use jsonwebtoken::errors::ErrorKind;
    let idp = FakeIdp::start().await;
    let valid = || TokenSpec::valid("alice", "https://mcp.example");
    let reason = async |spec: TokenSpec| verify(&idp, &idp.mint(&spec), Algorithm::RS256).await.unwrap_err();
    assert_eq!(reason(valid().expired()).await.kind(), &ErrorKind::ExpiredSignature);
    assert_eq!(reason(valid().not_yet_valid()).await.kind(), &ErrorKind::ImmatureSignature);
    assert_eq!(reason(valid().issuer("https://other.example")).await.kind(), &ErrorKind::InvalidIssuer);
    assert_eq!(reason(valid().audience("https://other.example")).await.kind(), &ErrorKind::InvalidAudience);
    assert_eq!(reason(valid().wrong_signature()).await.kind(), &ErrorKind::InvalidSignature);
    assert_eq!(reason(valid().hmac_with_public_key()).await.kind(), &ErrorKind::InvalidAlgorithm);

    let header = |spec: TokenSpec| -> Value {
        use base64::Engine as _;
        let token = idp.mint(&spec);
        let part = token.split('.').next().unwrap();
        serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap())
            .unwrap()
    };
    assert_eq!(header(valid().unsigned())["alg"], "none");
    assert!(idp.mint(&valid().unsigned()).ends_with('.'), "no signature");
    assert_eq!(header(valid().unknown_kid())["kid"], "nobody-knows-this-one");
    assert_eq!(header(valid().critical_header())["crit"], json!(["http://example.com/odd"]));
    assert_eq!(header(valid().without_header("kid")).get("kid"), None);
}

#[tokio::test]
async fn an_hmac_token_is_keyed_with_the_published_rsa_key() {
    let idp = FakeIdp::start().await;
    let token = idp.mint(&TokenSpec::valid("mallory", "https://mcp.example").hmac_with_public_key());
    let key = DecodingKey::from_secret(idp.key(Alg::Rs256).public_pem().as_bytes());
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&["https://mcp.example"]);
    decode::<Value>(&token, &key, &validation).expect("a verifier that is confused would accept it");
    DecodingKey::from_rsa_pem(idp.key(Alg::Rs256).public_pem().as_bytes()).expect("real PEM");
}

#[tokio::test]
async fn rotation_replaces_all_key_ids_and_adding_keeps_the_old_ones() {
    let idp = FakeIdp::start().await;
    let kids = async || -> HashSet<String> {
        let jwks = raw::get(address(&idp), "/jwks").await.json();
        let keys = jwks["keys"].as_array().unwrap();
        keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    };
    let first = kids().await;
    idp.add_keys();
    let both = kids().await;
    assert!(both.is_superset(&first) && both.len() == first.len() * 2);
    idp.rotate();
    assert!(kids().await.is_disjoint(&both));
    let token = idp.token("alice", "https://mcp.example");
    verify(&idp, &token, Algorithm::RS256).await.expect("new tokens use the new keys");
    assert_eq!(idp.jwks_hits(), 4);
    assert_eq!(idp.discovery_hits(), 0);
}

#[tokio::test]
async fn outages_come_and_go() {
    let idp = FakeIdp::start().await;
    idp.fail(Outage::Status(500)).await;
    assert_eq!(raw::get(address(&idp), "/jwks").await.status, 500);
    idp.down().await;
    assert!(tokio::net::TcpStream::connect(address(&idp)).await.is_err(), "nobody listens");
    idp.up().await;
    let discovery = raw::get(address(&idp), "/.well-known/openid-configuration").await.json();
    assert_eq!(discovery["issuer"], idp.issuer());
    idp.set_discovery_issuer("https://impostor.example");
    let discovery = raw::get(address(&idp), "/.well-known/openid-configuration").await.json();
    assert_eq!(discovery["issuer"], "https://impostor.example");
}

#[tokio::test]
async fn odd_keys_can_be_published() {
    let idp = FakeIdp::start().await;
    idp.omit_alg();
    idp.publish_also([json!({"kty": "RSA", "use": "enc", "kid": "e", "n": "AQAB", "e": "AQAB"})]);
    let keys = raw::get(address(&idp), "/jwks").await.json();
    assert_eq!(keys["keys"][0]["use"], "enc");
    assert_eq!(keys["keys"][1].get("alg"), None);
    idp.set_jwks(Some("not json"));
    assert_eq!(raw::get(address(&idp), "/jwks").await.text(), "not json");
}
