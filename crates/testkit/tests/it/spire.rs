use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use serde_json::Value;
use skep_testkit::spire::workload_api::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use skep_testkit::spire::workload_api::{
    JwtBundlesRequest, JwtSvid, JwtSvidRequest, ValidateJwtSvidRequest, X509BundlesRequest, X509SvidRequest,
    X509SvidResponse,
};
use skep_testkit::spire::{Entry, FakeAgent};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Streaming};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

const ALICE: &str = "spiffe://example.org/ns/demo/sa/alice";
const BOB: &str = "spiffe://example.org/ns/demo/sa/bob";

type Client = SpiffeWorkloadApiClient<Channel>;

async fn client(agent: &FakeAgent) -> Client {
    let socket: PathBuf = agent.socket().to_owned();
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://agent").connect_with_connector(connect).await.unwrap();
    SpiffeWorkloadApiClient::new(channel)
}

fn secured<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

async fn next<T>(stream: &mut Streaming<T>) -> Result<T, tonic::Status> {
    let message = timeout(Duration::from_secs(10), stream.message()).await.expect("a message in time");
    message.map(|message| message.expect("the stream goes on"))
}

async fn svids(client: &mut Client) -> Streaming<X509SvidResponse> {
    client.fetch_x509svid(secured(X509SvidRequest {})).await.unwrap().into_inner()
}

async fn jwts(client: &mut Client, audience: &[&str], id: &str) -> Result<Vec<JwtSvid>, tonic::Status> {
    let audience = audience.iter().map(|one| (*one).to_owned()).collect();
    let request = JwtSvidRequest { audience, spiffe_id: id.to_owned() };
    client.fetch_jwtsvid(secured(request)).await.map(|answer| answer.into_inner().svids)
}

fn certificates(mut der: &[u8]) -> Vec<X509Certificate<'_>> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (rest, certificate) = X509Certificate::from_der(der).unwrap();
        all.push(certificate);
        der = rest;
    }
    all
}

fn uris(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        other => panic!("{other:?} in an SVID"),
    };
    names.unwrap().iter().map(uri).collect()
}

#[tokio::test]
async fn an_x509_svid_has_one_uri_and_chains_to_the_bundle() {
    let agent = FakeAgent::start("example.org").await;
    agent.use_intermediate();
    agent.entry(Entry::new(ALICE).ttl(Duration::from_secs(90)));
    agent.entry(Entry::new(BOB).hint("second"));
    let message = next(&mut svids(&mut client(&agent).await).await).await.unwrap();
    let ids: Vec<_> =
        message.svids.iter().map(|svid| (svid.spiffe_id.as_str(), svid.hint.as_str())).collect();
    assert_eq!(ids, [(ALICE, ""), (BOB, "second")]);
    let svid = &message.svids[0];
    let chain = certificates(&svid.x509_svid);
    let [leaf, intermediate] = &chain[..] else { panic!("{} certificates", chain.len()) };
    assert_eq!(uris(leaf), [ALICE]);
    assert!(!leaf.is_ca());
    assert_eq!(leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp(), 100);
    assert_eq!(uris(intermediate), ["spiffe://example.org"]);
    let roots = certificates(&svid.bundle);
    assert_eq!(roots.len(), 1);
    assert_eq!(intermediate.issuer(), roots[0].subject());
    assert!(agent.x509_ca_pem().starts_with("-----BEGIN CERTIFICATE-----"));
    let key = rustls_key(&svid.x509_svid_key);
    assert_eq!(key, leaf.public_key().raw, "the key is the certificate's");
}

/// The public key (SPKI) of a PKCS#8 private key.
fn rustls_key(pkcs8: &[u8]) -> Vec<u8> {
    let key = rcgen::KeyPair::try_from(pkcs8).unwrap();
    rcgen::PublicKeyData::subject_public_key_info(&key)
}

#[tokio::test]
async fn rotation_is_pushed_and_what_does_not_change_is_not() {
    let agent = FakeAgent::start("example.org").await;
    agent.entry(Entry::new(ALICE));
    let mut client = client(&agent).await;
    let mut stream = svids(&mut client).await;
    let first = next(&mut stream).await.unwrap();
    agent.rotate_jwt_keys();
    agent.rotate_x509();
    let second = next(&mut stream).await.unwrap();
    assert_ne!(first.svids[0].x509_svid, second.svids[0].x509_svid);
    assert_eq!(first.svids[0].bundle, second.svids[0].bundle);
    agent.rotate_x509_ca();
    let third = next(&mut stream).await.unwrap();
    let roots = certificates(&third.svids[0].bundle);
    assert_eq!(roots.len(), 2, "the old root stays in the bundle");
    assert_eq!(roots[1], certificates(&second.svids[0].bundle)[0]);
    agent.federate("partner.example");
    let fourth = next(&mut stream).await.unwrap();
    assert_eq!(fourth.federated_bundles.keys().collect::<Vec<_>>(), ["spiffe://partner.example"]);
    assert_eq!(fourth.svids, third.svids);
    agent.mismatch_x509_keys();
    let fifth = next(&mut stream).await.unwrap();
    let leaf = &certificates(&fifth.svids[0].x509_svid)[0];
    assert_ne!(rustls_key(&fifth.svids[0].x509_svid_key), leaf.public_key().raw);
    assert_eq!(agent.calls("FetchX509SVID"), 1);
    assert_eq!(agent.open_streams(), 1);
}

#[tokio::test]
async fn jwt_svids_verify_against_the_bundles_and_by_the_agent() {
    let agent = FakeAgent::start("example.org").await;
    agent.entry(Entry::new(ALICE).hint("main").ttl(Duration::from_secs(30)));
    agent.entry(Entry::new(BOB));
    agent.federate("partner.example");
    let mut client = client(&agent).await;
    let both = jwts(&mut client, &["one", "two"], "").await.unwrap();
    assert_eq!(both.iter().map(|svid| svid.spiffe_id.as_str()).collect::<Vec<_>>(), [ALICE, BOB]);
    assert_eq!(both[0].hint, "main");
    assert_eq!(jwts(&mut client, &["one"], BOB).await.unwrap().len(), 1);

    let mut stream = client.fetch_jwt_bundles(secured(JwtBundlesRequest {})).await.unwrap().into_inner();
    let bundles = next(&mut stream).await.unwrap().bundles;
    let jwks: HashMap<String, Value> =
        bundles.iter().map(|(id, text)| (id.clone(), serde_json::from_slice(text).unwrap())).collect();
    assert_eq!(jwks["spiffe://example.org"], agent.jwks());
    assert_eq!(jwks["spiffe://partner.example"], agent.federated_jwks("partner.example"));
    let key = jsonwebtoken::DecodingKey::from_jwk(
        &serde_json::from_value(agent.jwks()["keys"][0].clone()).unwrap(),
    )
    .unwrap();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    validation.set_audience(&["two"]);
    let claims = jsonwebtoken::decode::<Value>(&both[0].svid, &key, &validation).unwrap().claims;
    assert_eq!(claims["sub"], ALICE);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 30);

    let mut validate = async |audience: &str, svid: &str| {
        let request = ValidateJwtSvidRequest { audience: audience.to_owned(), svid: svid.to_owned() };
        client.validate_jwtsvid(secured(request)).await.map(tonic::Response::into_inner)
    };
    let valid = validate("two", &both[0].svid).await.unwrap();
    assert_eq!(valid.spiffe_id, ALICE);
    assert!(valid.claims.unwrap().fields.contains_key("exp"));
    let expired = agent.issue_jwt(&["two"], Duration::ZERO);
    let stranger = agent.issue_jwt_for("spiffe://partner.example/x", &["two"], Duration::from_mins(1));
    for (audience, svid) in [("three", &both[0].svid), ("two", &expired), ("two", &stranger), ("", &expired)]
    {
        assert_eq!(validate(audience, svid).await.unwrap_err().code(), Code::InvalidArgument, "{audience}");
    }
    agent.rotate_jwt_keys();
    assert!(validate("two", &both[0].svid).await.is_ok(), "old keys still verify");
    assert_eq!(next(&mut stream).await.unwrap().bundles.len(), 2, "new keys are pushed");
    agent.revoke_jwt_keys();
    assert!(validate("two", &both[0].svid).await.is_err(), "revoked keys don't");
}

#[tokio::test]
async fn callers_are_refused_as_the_standard_says() {
    let agent = FakeAgent::start("example.org").await;
    let mut client = client(&agent).await;
    let bare = client.fetch_x509svid(X509SvidRequest {}).await.unwrap_err();
    assert_eq!(bare.code(), Code::InvalidArgument, "no security header");
    assert_eq!(jwts(&mut client, &["one"], "").await.unwrap_err().code(), Code::PermissionDenied, "no entry");
    agent.entry(Entry::new(ALICE));
    assert_eq!(jwts(&mut client, &[], "").await.unwrap_err().code(), Code::InvalidArgument, "no audience");
    assert_eq!(jwts(&mut client, &["one"], "alice").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(jwts(&mut client, &["one"], BOB).await.unwrap_err().code(), Code::PermissionDenied);
    let mut stream = client.fetch_x509_bundles(secured(X509BundlesRequest {})).await.unwrap().into_inner();
    assert_eq!(next(&mut stream).await.unwrap().bundles.len(), 1);
    agent.deny(true);
    assert_eq!(next(&mut stream).await.unwrap_err().code(), Code::PermissionDenied, "a stream ends");
    agent.deny(false);
    agent.fail(Some(Code::Unavailable));
    assert_eq!(jwts(&mut client, &["one"], "").await.unwrap_err().code(), Code::Unavailable);
    agent.fail(None);
    assert_eq!(jwts(&mut client, &["one"], "").await.unwrap().len(), 1);
    agent.remove_entry(ALICE);
    assert_eq!(jwts(&mut client, &["one"], "").await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_agent_stops_as_if_killed_and_comes_back_on_the_same_socket() {
    let agent = FakeAgent::start("example.org").await;
    agent.entry(Entry::new(ALICE));
    let mut client = client(&agent).await;
    let mut stream = svids(&mut client).await;
    let before = next(&mut stream).await.unwrap();
    agent.stop().await;
    assert!(next(&mut stream).await.is_err(), "the stream breaks");
    assert!(UnixStream::connect(agent.socket()).await.is_err(), "nobody listens");
    agent.restart().await;
    let mut again = self::client(&agent).await;
    assert_eq!(next(&mut svids(&mut again).await).await.unwrap(), before, "nothing is forgotten");
    timeout(Duration::from_secs(10), agent.wait_for_calls("FetchX509SVID", 2)).await.unwrap();
}
