//! What is sent, and how the client proves itself.

use aws_lc_rs::encoding::{AsDer as _, EcPrivateKeyRfc5915Der, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde_json::{Value, json};
use skep_api::secret::Secret;
use skep_auth::exchange::{
    ClientAuth, ExchangeError, ExchangeReadiness, ExchangeSetupError, ExchangerMode, Grant, TokenType,
};
use skep_runtime::clock::Clock as _;
use skep_testkit::tls::pem;
use skep_testkit::{ScriptedServer, TestCa, TestCertificate, Tls, token_endpoint};

use super::{Bench, build, header};

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_token_is_exchanged_as_rfc_8693_says() {
    let bench = Bench::with(
        |_| token_endpoint::issued("exchanged", 300),
        |settings| {
            settings.grant = Grant::TokenExchange {
                subject_type: TokenType::IdToken,
                actor: Some((Secret::new("who-acts"), TokenType::Jwt)),
            };
            settings.scopes = vec!["a".to_owned(), "b".to_owned()];
            settings.resource = "https://backend.example/mcp?x=1".to_owned();
        },
    )
    .await;
    assert_eq!(bench.exchanger.mode(), ExchangerMode::Caller);
    assert_eq!(bench.exchanger.audience(), "https://backend.example");
    let (token, kept) = bench.token("subject+token/=").await.unwrap();
    assert_eq!((header(&token).as_str(), kept), ("Bearer exchanged", false));
    assert!(token.authorization.is_sensitive());
    assert_eq!(token.scopes, ["a", "b"], "the scopes asked for, when the endpoint does not say");
    let seen = &bench.server.requests()[0];
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/token"));
    assert_eq!(seen.header_all("content-type"), ["application/x-www-form-urlencoded"]);
    assert_eq!(seen.header_all("accept"), ["application/json"]);
    assert_eq!(seen.header_all("authorization"), [format!("Basic {}", STANDARD.encode("proxy:s3cret"))]);
    assert_eq!(
        seen.form(),
        pairs(&[
            ("grant_type", EXCHANGE),
            ("subject_token", "subject+token/="),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:id_token"),
            ("requested_token_type", ACCESS_TOKEN),
            ("actor_token", "who-acts"),
            ("actor_token_type", JWT),
            ("audience", "https://backend.example"),
            ("scope", "a b"),
            ("resource", "https://backend.example/mcp?x=1"),
        ])
    );
    assert_eq!(bench.exchanger.readiness(), ExchangeReadiness::Ready);
}

#[tokio::test]
async fn what_is_not_set_is_not_sent() {
    let bench = Bench::with(
        |_| token_endpoint::issued("exchanged", 300),
        |settings| {
            settings.audience = String::new();
            settings.client_auth = ClientAuth::Public;
            settings.client_id = String::new();
        },
    )
    .await;
    bench.token("t").await.unwrap();
    let seen = &bench.server.requests()[0];
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(
        seen.form(),
        pairs(&[
            ("grant_type", EXCHANGE),
            ("subject_token", "t"),
            ("subject_token_type", ACCESS_TOKEN),
            ("requested_token_type", ACCESS_TOKEN),
        ])
    );
}

#[tokio::test]
async fn a_service_asks_for_one_token_for_everybody() {
    let bench = Bench::with(
        |_| {
            let mut body = token_endpoint::answer("service", 300);
            body.as_object_mut().unwrap().remove("issued_token_type");
            body["scope"] = json!("less");
            skep_testkit::Reply::json(&body)
        },
        |settings| {
            settings.grant = Grant::ClientCredentials;
            settings.scopes = vec!["a".to_owned()];
            settings.resource = "https://backend.example/mcp".to_owned();
        },
    )
    .await;
    assert_eq!(bench.exchanger.mode(), ExchangerMode::Service);
    let (token, kept) = bench.exchanger.token(None).await.unwrap();
    assert_eq!((header(&token).as_str(), kept), ("Bearer service", false));
    assert_eq!(token.scopes, ["less"], "what was granted, not what was asked for");
    assert!(bench.token("of alice").await.unwrap().1, "the subject does not matter");
    assert_eq!(bench.calls(), 1);
    assert_eq!(
        bench.server.requests()[0].form(),
        pairs(&[
            ("grant_type", "client_credentials"),
            ("audience", "https://backend.example"),
            ("scope", "a"),
            ("resource", "https://backend.example/mcp"),
        ])
    );
}

/// The method, the form fields about the client, and what `Basic` carries.
type Method = (ClientAuth, &'static [(&'static str, &'static str)], Option<&'static str>);

#[tokio::test]
async fn each_method_of_client_authentication_sends_what_it_says() {
    let table: [Method; 4] = [
        (ClientAuth::Public, &[("client_id", "a:b c")], None),
        (ClientAuth::SecretBasic(Secret::new("p+s %ä")), &[], Some("a%3Ab+c:p%2Bs+%25%C3%A4")),
        (
            ClientAuth::SecretPost(Secret::new("p+s %ä")),
            &[("client_id", "a:b c"), ("client_secret", "p+s %ä")],
            None,
        ),
        (
            ClientAuth::SpiffeJwt(Secret::new("svid.of.proxy")),
            &[
                ("client_id", "a:b c"),
                ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"),
                ("client_assertion", "svid.of.proxy"),
            ],
            None,
        ),
    ];
    for (auth, expected, basic) in table {
        let name = format!("{auth:?}");
        let bench = Bench::with(
            |_| token_endpoint::issued("exchanged", 300),
            |settings| {
                settings.client_id = "a:b c".to_owned();
                settings.client_auth = auth;
            },
        )
        .await;
        bench.token("t").await.unwrap();
        let seen = &bench.server.requests()[0];
        let basic = basic.map(|pair| format!("Basic {}", STANDARD.encode(pair)));
        assert_eq!(seen.header("authorization"), basic.as_deref(), "{name}");
        let sent: Vec<_> = seen.form().into_iter().filter(|(name, _)| name.starts_with("client_")).collect();
        assert_eq!(sent, pairs(expected), "{name}");
    }
}

struct Key {
    name: &'static str,
    pem: String,
    algorithm: Algorithm,
    verify: DecodingKey,
}

fn keys() -> Vec<Key> {
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let rsa_pkcs8: Pkcs8V1Der<'_> = rsa.as_der().unwrap();
    let rsa_pkcs8: &[u8] = rsa_pkcs8.as_ref();
    // PrivateKeyInfo of an RSA key has 26 bytes before the RSAPrivateKey of RFC 8017 (2048 bits).
    let rsa_pkcs1 = &rsa_pkcs8[26..];
    let rsa_key = || DecodingKey::from_rsa_der(rsa.public_key().as_ref());
    let ed = Ed25519KeyPair::generate().unwrap();
    let ed_v1 = ed.to_pkcs8v1().unwrap();
    let mut keys = vec![
        Key {
            name: "RSA, PKCS#8",
            pem: pem("PRIVATE KEY", rsa_pkcs8),
            algorithm: Algorithm::RS256,
            verify: rsa_key(),
        },
        Key {
            name: "RSA, PKCS#1",
            pem: pem("RSA PRIVATE KEY", rsa_pkcs1),
            algorithm: Algorithm::RS256,
            verify: rsa_key(),
        },
        Key {
            name: "Ed25519",
            pem: pem("PRIVATE KEY", ed_v1.as_ref()),
            algorithm: Algorithm::EdDSA,
            verify: DecodingKey::from_ed_components(&URL_SAFE_NO_PAD.encode(ed.public_key().as_ref()))
                .unwrap(),
        },
    ];
    for (algorithm, signing) in [
        (Algorithm::ES256, &ECDSA_P256_SHA256_FIXED_SIGNING),
        (Algorithm::ES384, &ECDSA_P384_SHA384_FIXED_SIGNING),
    ] {
        keys.extend(elliptic(algorithm, signing));
    }
    keys
}

fn elliptic(algorithm: Algorithm, signing: &'static EcdsaSigningAlgorithm) -> [Key; 2] {
    let pair = EcdsaKeyPair::generate(signing).unwrap();
    let pkcs8 = pair.to_pkcs8v1().unwrap();
    let sec1: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().unwrap();
    let point = &pair.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    let verify =
        || DecodingKey::from_ec_components(&URL_SAFE_NO_PAD.encode(x), &URL_SAFE_NO_PAD.encode(y)).unwrap();
    [
        Key { name: "EC, PKCS#8", pem: pem("PRIVATE KEY", pkcs8.as_ref()), algorithm, verify: verify() },
        Key { name: "EC, SEC 1", pem: pem("EC PRIVATE KEY", sec1.as_ref()), algorithm, verify: verify() },
    ]
}

#[tokio::test]
async fn an_assertion_is_signed_with_the_clients_key_and_used_once() {
    for Key { name, pem, algorithm, verify } in keys() {
        let bench = Bench::with(
            |_| token_endpoint::issued("exchanged", 300),
            |settings| {
                settings.client_auth =
                    ClientAuth::PrivateKeyJwt { key: Secret::new(pem), key_id: Some("key-1".to_owned()) };
            },
        )
        .await;
        bench.token("one").await.unwrap();
        bench.token("two").await.unwrap();
        let now = bench.clock.unix_seconds();
        let mut ids = Vec::new();
        for seen in bench.server.requests() {
            assert_eq!(seen.header("authorization"), None);
            assert_eq!(seen.form_field("client_id"), "proxy");
            assert_eq!(
                seen.form_field("client_assertion_type"),
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            );
            let mut validation = Validation::new(algorithm);
            validation.validate_exp = false;
            validation.set_audience(&[bench.server.url("/token")]);
            let jwt = decode::<Value>(seen.form_field("client_assertion"), &verify, &validation)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(jwt.header.kid.as_deref(), Some("key-1"), "{name}");
            assert_eq!(jwt.header.typ.as_deref(), Some("JWT"), "{name}");
            let mut claims = jwt.claims;
            ids.push(claims["jti"].as_str().unwrap().to_owned());
            claims["jti"] = Value::Null;
            assert_eq!(
                claims,
                json!({
                    "iss": "proxy",
                    "sub": "proxy",
                    "aud": bench.server.url("/token"),
                    "jti": null,
                    "iat": now,
                    "exp": now + 60,
                }),
                "{name}"
            );
        }
        assert_eq!(ids.len(), 2);
        assert_ne!(ids[0], ids[1], "{name}: an assertion is good for one call");
    }
}

fn tls(certificate: &TestCertificate) -> ClientAuth {
    ClientAuth::Tls {
        certificate: Secret::new(certificate.certificate_pem.as_str()),
        key: Secret::new(certificate.key_pem.as_str()),
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_in_the_handshake() {
    let (ca, clients) = (TestCa::new(), TestCa::new());
    let certificate = clients.client("proxy", None);
    let start = async |auth: ClientAuth| {
        let server = ScriptedServer::start_tls(&Tls::requiring_clients(&ca, &clients), |_| {
            token_endpoint::issued("exchanged", 300)
        })
        .await;
        Bench::on(server, |settings| {
            settings.ca_pem = Some(ca.pem().into_bytes());
            settings.client_auth = auth;
            settings.reach.http = false;
        })
    };
    let bench = start(tls(&certificate)).await;
    assert_eq!(bench.value("t").await, "Bearer exchanged");
    let seen = &bench.server.requests()[0];
    assert_eq!(seen.client_certificate.as_deref(), Some(certificate.der()));
    assert_eq!(seen.form_field("client_id"), "proxy");
    assert_eq!(seen.header("authorization"), None);

    // The same server lets nobody else in.
    for auth in [ClientAuth::SecretBasic(Secret::new("s3cret")), tls(&TestCa::new().client("proxy", None))] {
        let bench = start(auth).await;
        assert!(matches!(bench.token("t").await, Err(ExchangeError::Unavailable { .. })));
        assert_eq!(bench.calls(), 0);
    }
    // A renewed certificate is the one that is shown.
    let bench = start(tls(&certificate)).await;
    let renewed = clients.client("proxy", None);
    let mut settings = bench.settings.clone();
    settings.client_auth = tls(&renewed);
    assert!(bench.exchanger.renew(&settings).unwrap());
    bench.token("t").await.unwrap();
    assert_eq!(bench.server.requests()[0].client_certificate.as_deref(), Some(renewed.der()));
}

#[tokio::test]
async fn an_endpoint_of_a_private_ca_is_trusted_when_the_ca_is_configured() {
    let ca = TestCa::new();
    let start = async |ca_pem: Option<String>| {
        let server =
            ScriptedServer::start_tls(&Tls::new(&ca), |_| token_endpoint::issued("exchanged", 300)).await;
        Bench::on(server, |settings| settings.ca_pem = ca_pem.map(String::into_bytes))
    };
    assert_eq!(start(Some(ca.pem())).await.value("t").await, "Bearer exchanged");
    for wrong in [None, Some(TestCa::new().pem())] {
        let bench = start(wrong).await;
        assert!(matches!(bench.token("t").await, Err(ExchangeError::Unavailable { .. })));
        assert_eq!(bench.calls(), 0);
        // The CA comes later, as a file that is watched does.
        let mut settings = bench.settings.clone();
        settings.ca_pem = Some(ca.pem().into_bytes());
        assert!(bench.exchanger.renew(&settings).unwrap());
        assert_eq!(bench.value("t").await, "Bearer exchanged");
    }
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_once() {
    use ExchangeSetupError as Error;
    let bench = Bench::start(|_| token_endpoint::issued("exchanged", 300)).await;
    let own = TestCa::new().client("proxy", None);
    let other = TestCa::new().client("proxy", None);
    let key = |pem: &str| ClientAuth::PrivateKeyJwt { key: Secret::new(pem), key_id: None };
    let small = include_str!("../../fixtures/rsa1024.pem");
    type Expected = fn(&Error) -> bool;
    let table: Vec<(&str, ClientAuth, &str, Expected)> = vec![
        ("an empty secret", ClientAuth::SecretBasic(Secret::new("")), "proxy", |e| {
            matches!(e, Error::CredentialMissing { what: "secret" })
        }),
        ("an empty posted secret", ClientAuth::SecretPost(Secret::new("")), "proxy", |e| {
            matches!(e, Error::CredentialMissing { what: "secret" })
        }),
        ("an empty JWT-SVID", ClientAuth::SpiffeJwt(Secret::new("")), "proxy", |e| {
            matches!(e, Error::CredentialMissing { what: "JWT-SVID" })
        }),
        ("an empty key", key(""), "proxy", |e| matches!(e, Error::CredentialMissing { .. })),
        ("no key", key("hunter2"), "proxy", |e| matches!(e, Error::Key { .. })),
        ("a certificate as key", key(&own.certificate_pem), "proxy", |e| matches!(e, Error::Key { .. })),
        ("a key that is too small", key(small), "proxy", |e| matches!(e, Error::Key { .. })),
        ("no client id", ClientAuth::SecretBasic(Secret::new("s")), "", |e| {
            matches!(e, Error::ClientIdMissing)
        }),
        ("no client id for a certificate", tls(&own), "", |e| matches!(e, Error::ClientIdMissing)),
        (
            "an empty certificate",
            ClientAuth::Tls { certificate: Secret::new(""), key: Secret::new(own.key_pem.as_str()) },
            "proxy",
            |e| matches!(e, Error::CredentialMissing { what: "certificate" }),
        ),
        (
            "no certificate",
            ClientAuth::Tls { certificate: Secret::new("hunter2"), key: Secret::new(own.key_pem.as_str()) },
            "proxy",
            |e| matches!(e, Error::Key { .. }),
        ),
        (
            "a key of another certificate",
            ClientAuth::Tls {
                certificate: Secret::new(own.certificate_pem.as_str()),
                key: Secret::new(other.key_pem.as_str()),
            },
            "proxy",
            |e| matches!(e, Error::Key { .. } | Error::Endpoint(_)),
        ),
    ];
    for (what, auth, client_id, expected) in table {
        let mut settings = bench.settings.clone();
        settings.client_auth = auth;
        settings.client_id = client_id.to_owned();
        let error = build(&settings, &bench.clock, &bench.observer).expect_err(what);
        assert!(expected(&error), "{what}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{what}");
    }
    let mut settings = bench.settings.clone();
    settings.reach.http = false;
    assert!(matches!(build(&settings, &bench.clock, &bench.observer), Err(Error::Endpoint(_))), "http");
    let mut settings = bench.settings.clone();
    settings.token_url.set_host(Some("169.254.169.254")).unwrap();
    assert!(matches!(build(&settings, &bench.clock, &bench.observer), Err(Error::Endpoint(_))), "metadata");
    let mut settings = bench.settings.clone();
    settings.ca_pem = Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec());
    assert!(matches!(build(&settings, &bench.clock, &bench.observer), Err(Error::Endpoint(_))), "CA");
}
