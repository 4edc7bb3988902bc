//! Requests that two servers could cut apart in two places.

use serde_json::json;
use skep_testkit::RawConnection;

use crate::harness::{Harness, call};

#[tokio::test]
async fn the_backend_never_sees_a_request_that_the_proxy_did_not_judge() {
    let harness = Harness::start(json!({"tools_filter": ["tool-0"]})).await;
    let allowed = call("tool-0").to_string();
    let hidden = call("tool-2").to_string();
    let own = harness.address;
    let inner = format!(
        "POST /mcp HTTP/1.1\r\nHost: {own}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{hidden}",
        hidden.len()
    );
    let chunked = |body: &str| format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let length = allowed.len();
    let table: Vec<(&str, String, String)> = vec![
        (
            "length and chunked",
            format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
            format!("0\r\n\r\n{inner}"),
        ),
        (
            "chunked and length",
            format!(
                "Transfer-Encoding: chunked\r\nContent-Length: {}\r\n",
                chunked(&allowed).len() + inner.len()
            ),
            format!("{}{inner}", chunked(&allowed)),
        ),
        (
            "two lengths",
            format!("Content-Length: {length}\r\nContent-Length: {}\r\n", length + inner.len()),
            format!("{allowed}{inner}"),
        ),
        (
            "two equal lengths",
            format!("Content-Length: {length}\r\nContent-Length: {length}\r\n"),
            format!("{allowed}{inner}"),
        ),
        (
            "lengths in a list",
            format!("Content-Length: {length}, {}\r\n", length + 5),
            format!("{allowed}{inner}"),
        ),
        ("length with a plus", format!("Content-Length: +{length}\r\n"), format!("{allowed}{inner}")),
        (
            "length with a space before the colon",
            format!("Content-Length : {length}\r\n"),
            format!("{allowed}{inner}"),
        ),
        (
            "hidden chunked",
            format!("Content-Length: {length}\r\nTransfer-Encoding: xchunked\r\n"),
            format!("{allowed}{inner}"),
        ),
        (
            "chunked in a list",
            "Transfer-Encoding: identity, chunked\r\n".to_owned(),
            format!("{}{inner}", chunked(&allowed)),
        ),
        (
            "chunked twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n".to_owned(),
            format!("{}{inner}", chunked(&allowed)),
        ),
        (
            "chunked after a tab",
            "Transfer-Encoding:\tchunked\r\n".to_owned(),
            format!("{}{inner}", chunked(&allowed)),
        ),
        (
            "chunked on a folded line",
            "Transfer-Encoding:\r\n chunked\r\n".to_owned(),
            format!("{}{inner}", chunked(&allowed)),
        ),
        (
            "a chunk size that overflows",
            "Transfer-Encoding: chunked\r\n".to_owned(),
            format!("ffffffffffffffffff\r\n{allowed}\r\n0\r\n\r\n{inner}"),
        ),
        (
            "a chunk size with a sign",
            "Transfer-Encoding: chunked\r\n".to_owned(),
            format!("+{:x}\r\n{allowed}\r\n0\r\n\r\n{inner}", length),
        ),
        (
            "a chunk size with 0x",
            "Transfer-Encoding: chunked\r\n".to_owned(),
            format!("0x{:x}\r\n{allowed}\r\n0\r\n\r\n{inner}", length),
        ),
        (
            "a chunk without its line end",
            "Transfer-Encoding: chunked\r\n".to_owned(),
            format!("{:x}\r\n{allowed}0\r\n\r\n{inner}", length),
        ),
        (
            "a bare line feed after the size",
            "Transfer-Encoding: chunked\r\n".to_owned(),
            format!("{:x}\n{allowed}\r\n0\r\n\r\n{inner}", length),
        ),
        (
            "a chunk extension with a line feed",
            "Transfer-Encoding: chunked\r\n".to_owned(),
            format!("{:x};a\nb\r\n{allowed}\r\n0\r\n\r\n{inner}", length),
        ),
        (
            "trailers that are headers",
            "Transfer-Encoding: chunked\r\n".to_owned(),
            format!(
                "{:x}\r\n{allowed}\r\n0\r\nContent-Length: 3\r\nAuthorization: x\r\nMcp-Name: tool-2\r\n\r\n{inner}",
                length
            ),
        ),
        ("a body on a GET", String::new(), String::new()),
    ];
    for (what, headers, body) in table {
        let mut connection = RawConnection::open(own).await;
        let request = if what == "a body on a GET" {
            format!(
                "GET /mcp HTTP/1.1\r\nHost: {own}\r\nAuthorization: {}\r\nContent-Length: {}\r\n\r\n{inner}",
                harness.bearer(),
                inner.len()
            )
        } else {
            format!("{}{body}", harness.head(&headers))
        };
        connection.send(request.as_bytes()).await;
        connection.finish_sending().await;
        let answers = String::from_utf8_lossy(&connection.read_to_end().await).into_owned();
        assert!(!answers.contains("tool-2"), "{what}: {answers}");
        for seen in harness.backend.requests() {
            assert!(!String::from_utf8_lossy(&seen.body).contains("tool-2"), "{what}: {seen:?}");
            assert!(
                seen.header_all("transfer-encoding").len() + seen.header_all("content-length").len() <= 1,
                "{what}: {seen:?}"
            );
            assert!(seen.body.is_empty() || seen.body == allowed.as_bytes(), "{what}: {seen:?}");
            assert_eq!(seen.header("mcp-name"), None, "{what}");
        }
        harness.backend.forget();
    }
}

#[tokio::test]
async fn the_second_of_two_requests_in_one_go_is_judged_by_itself() {
    let harness = Harness::start(json!({"tools_filter": ["tool-0"]})).await;
    let body = call("tool-0").to_string();
    let first = format!("{}{body}", harness.head(&format!("Content-Length: {}\r\n", body.len())));
    let second = format!(
        "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        harness.address,
        body.len()
    );
    let mut connection = RawConnection::open(harness.address).await;
    connection.send(format!("{first}{second}").as_bytes()).await;
    assert_eq!(connection.read_answer().await.status, 200);
    assert_eq!(connection.read_answer().await.status, 401, "the token of the first is not the second's");
    assert_eq!(harness.backend.requests().len(), 1);
}
