//! The guarded client against servers that misbehave.

use std::time::{Duration, Instant};

use bytes::Bytes;
use skep_api::address::{Egress, Reach};
use skep_api::secret::Secret;
use skep_auth::client::{ClientConfig, FetchError, GuardedClient};
use skep_testkit::server::{Framing, Step};
use skep_testkit::{Reply, ScriptedServer};
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
