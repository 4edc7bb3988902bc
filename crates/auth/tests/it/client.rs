//! The guarded client against servers that misbehave.

use std::time::{Duration, Instant};

use bytes::Bytes;
use skep_api::address::{Egress, Reach};
use skep_api::secret::Secret;
use skep_auth::client::{ClientConfig, FetchError, GuardedClient};
use skep_auth::pins::Pins;
use skep_testkit::server::{Framing, Step};
use skep_testkit::{Reply, ScriptedServer, TestCa, TestCertificate, Tls};
use url::Url;

fn client(change: impl FnOnce(&mut ClientConfig)) -> GuardedClient {
    let mut config = ClientConfig::new(Egress { loopback: true, deny: Vec::new() });
    config.reach = Reach { http: true, private: true };
    config.max_bytes = 1000;
    config.timeout = Duration::from_millis(500);
    change(&mut config);
    GuardedClient::new(config).unwrap()
}

fn url(server: &ScriptedServer, path: &str) -> Url {
    Url::parse(&server.url(path)).unwrap()
}

#[tokio::test]
async fn an_answer_is_read_up_to_its_bound_however_its_length_is_told() {
    for framing in [Framing::Length, Framing::Chunked, Framing::UntilClose] {
        for (length, fine) in [(0, true), (1000, true), (1001, false), (3_000_000, false)] {
            let server = ScriptedServer::start(move |_| {
                Reply::status(200).framing(framing).step(Step::Send(Bytes::from(vec![b'x'; length])))
            })
            .await;
            let answer = client(|_| {}).get_json(&url(&server, "/"), None).await;
            match answer {
                Ok(body) => assert!(fine && body.len() == length, "{framing:?} {length}"),
                Err(FetchError::TooLarge { limit: 1000, .. }) => assert!(!fine, "{framing:?} {length}"),
                Err(error) => panic!("{framing:?} {length}: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_hangs_or_drips_is_given_up_in_time() {
    let drip = || {
        let mut reply = Reply::status(200).framing(Framing::Chunked);
        for _ in 0..500 {
            reply = reply.step(Step::Send("x".into())).step(Step::Pause(Duration::from_millis(50)));
        }
        reply
    };
    for reply in [Reply::hang(), Reply::status(200).framing(Framing::Chunked).step(Step::Hang), drip()] {
        let server = ScriptedServer::start(move |_| reply.clone()).await;
        let started = Instant::now();
        let error = client(|_| {}).get_json(&url(&server, "/"), None).await.unwrap_err();
        assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn only_200_is_an_answer_and_no_redirect_is_followed() {
    let elsewhere = ScriptedServer::start(|_| Reply::status(200)).await;
    let target = elsewhere.url("/");
    for status in [201, 204, 301, 302, 307, 308, 401, 404, 500] {
        let target = target.clone();
        let server = ScriptedServer::start(move |_| Reply::status(status).header("Location", &target)).await;
        let error = client(|_| {}).get_json(&url(&server, "/"), None).await.unwrap_err();
        assert!(matches!(error, FetchError::Status { status: found, .. } if found == status), "{error}");
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn what_may_not_be_reached_is_not_even_connected_to() {
    let server = ScriptedServer::start(|_| Reply::status(200)).await;
    let by_name = Url::parse(&format!("http://localhost:{}/", server.address().port())).unwrap();
    let by_address = url(&server, "/");
    type Change = fn(&mut ClientConfig);
    let table: [(&str, Change); 3] = [
        ("loopback outside a local run", |config| config.egress.loopback = false),
        ("a denied network", |config| {
            config.egress.deny = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        }),
        ("plain http", |config| config.reach.http = false),
    ];
    for (what, change) in table {
        for target in [&by_name, &by_address] {
            assert!(client(change).get_json(target, None).await.is_err(), "{what} {target}");
        }
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn errors_and_requests_hold_what_they_should() {
    let server = ScriptedServer::start(|_| Reply::status(500)).await;
    let target = url(&server, "/keys?token=in-the-query");
    let mut with_password = target.clone();
    with_password.set_password(Some("in-the-url")).unwrap();
    let token = Secret::new("in-the-header");
    let client = client(|_| {});
    let refused = client.get_json(&with_password, Some(&token)).await.unwrap_err();
    assert!(matches!(refused, FetchError::Credentials { .. }), "{refused}");
    let error = client.get_json(&target, Some(&token)).await.unwrap_err();
    assert_eq!(server.requests().len(), 1);
    let seen = &server.requests()[0];
    assert_eq!(seen.header_all("authorization"), ["Bearer in-the-header"]);
    assert_eq!(seen.header("accept"), Some("application/json"));
    server.down().await;
    let gone = client.get_json(&target, Some(&token)).await.unwrap_err();
    for text in [refused, error, gone].map(|error| format!("{error} {error:?}")) {
        for secret in ["in-the-query", "in-the-url", "in-the-header"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

/// A pin of a certificate's public key, as other tools make it: `openssl x509 -pubkey | openssl pkey
/// -pubin -outform der | sha256`.
fn pins_of(certificate: &TestCertificate) -> (String, String) {
    use rustls::pki_types::CertificateDer;
    use rustls::server::ParsedCertificate;
    let der = CertificateDer::from(certificate.der());
    let key = ParsedCertificate::try_from(&der).unwrap().subject_public_key_info();
    let hex = |bytes: &[u8]| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    (hex(&key), hex(&der))
}

#[tokio::test]
async fn a_server_that_is_trusted_but_not_pinned_is_not_spoken_to() {
    let ca = TestCa::new();
    let certificate = ca.server(&["127.0.0.1"]);
    let (key, whole) = pins_of(&certificate);
    let (other_key, other_whole) = pins_of(&ca.server(&["127.0.0.1"]));
    let (ca_key, _) = pins_of(&ca.server(&["ca.example"]));
    let server = ScriptedServer::start_tls(&Tls::with(&certificate), |_| Reply::status(200)).await;
    let table = [
        ("nothing pinned", vec![], "", true),
        ("its key", vec![&key], "", true),
        ("one of several keys", vec![&other_key, &key], "", true),
        ("its certificate", vec![], &*whole, true),
        ("both", vec![&key], &whole, true),
        ("another key", vec![&other_key], "", false),
        ("keys of others", vec![&other_key, &ca_key], "", false),
        ("another certificate", vec![], &other_whole, false),
        ("its key and another certificate", vec![&key], &other_whole, false),
        ("its certificate and another key", vec![&other_key], &whole, false),
        ("its certificate as a key", vec![&whole], "", false),
    ];
    for (what, keys, whole, fine) in table {
        let keys: Vec<String> = keys.into_iter().cloned().collect();
        let pins = Pins::parse(&keys, whole).unwrap();
        let before = server.requests().len();
        let client = client(|config| {
            config.reach.http = false;
            config.ca_pem = Some(ca.pem().into_bytes());
            config.pins = pins.clone();
        });
        let token = Secret::new("in-the-header");
        let answer = client.get_json(&url(&server, "/"), Some(&token)).await;
        assert_eq!(answer.is_ok(), fine, "{what}");
        if let Err(error) = answer {
            assert!(
                skep_runtime::logging::chain(&error).contains("not one that is pinned"),
                "{what}: {error:?}"
            );
            assert_eq!(server.requests().len(), before, "{what}: nothing was sent");
        }
    }
    // A pin is no trust: the server must be one that the client trusts as well.
    let pins = Pins::parse(&[key], &whole).unwrap();
    let untrusting = client(|config| config.pins = pins.clone());
    assert!(untrusting.get_json(&url(&server, "/"), None).await.is_err());
    let elsewhere = ca.server(&["other.example"]);
    let (key, _) = pins_of(&elsewhere);
    let server = ScriptedServer::start_tls(&Tls::with(&elsewhere), |_| Reply::status(200)).await;
    let wrong_name = client(|config| {
        config.ca_pem = Some(ca.pem().into_bytes());
        config.pins = Pins::parse(&[key], "").unwrap();
    });
    assert!(wrong_name.get_json(&url(&server, "/"), None).await.is_err());
}

#[tokio::test]
async fn a_pinned_certificate_that_is_only_sent_along_proves_nothing() {
    let ca = TestCa::new();
    let pinned = ca.server(&["127.0.0.1"]);
    let impostor = ca.server(&["127.0.0.1"]);
    let (key, whole) = pins_of(&pinned);
    for (tls, fine) in [
        (Tls::with_others(&impostor, &[&pinned]), false),
        (Tls::with_others(&impostor, &[&pinned, &impostor]), false),
        (Tls::with_others(&pinned, &[&impostor]), true),
    ] {
        let server = ScriptedServer::start_tls(&tls, |_| Reply::status(200)).await;
        for pins in [Pins::parse(std::slice::from_ref(&key), ""), Pins::parse(&[], &whole)] {
            let client = client(|config| {
                config.ca_pem = Some(ca.pem().into_bytes());
                config.pins = pins.unwrap();
            });
            assert_eq!(client.get_json(&url(&server, "/"), None).await.is_ok(), fine);
        }
        assert_eq!(server.requests().len(), if fine { 2 } else { 0 });
    }
}

#[tokio::test]
async fn pins_and_a_client_certificate_go_together() {
    let ca = TestCa::new();
    let mine = ca.client("proxy", None);
    let server = ScriptedServer::start_tls(&Tls::requiring_clients(&ca, &ca), |_| Reply::status(200)).await;
    let client_with = |keys: Vec<String>| {
        client(|config| {
            config.ca_pem = Some(ca.pem().into_bytes());
            let pem = format!("{}{}", mine.certificate_pem, mine.key_pem);
            config.identity_pem = Some(Secret::new(pem));
            config.pins = Pins::parse(&keys, "").unwrap();
        })
    };
    assert!(client_with(vec![]).get_json(&url(&server, "/"), None).await.is_ok());
    let refused = client_with(vec!["ab".repeat(32)]).get_json(&url(&server, "/"), None).await;
    assert!(skep_runtime::logging::chain(&refused.unwrap_err()).contains("not one that is pinned"));
    let mut config = ClientConfig::new(Egress::default());
    config.pins = Pins::parse(&["ab".repeat(32)], "").unwrap();
    config.ca_pem = Some(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_vec());
    assert!(matches!(GuardedClient::new(config), Err(FetchError::Pins(_))));
}
