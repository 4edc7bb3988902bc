//! Bodies that could be read in two ways, or not at all.

use std::time::Duration;

use serde_json::{Value, json};
use skep_testkit::{RawConnection, raw};

use crate::harness::{Harness, PERMIT_ALL, call, cedar, rpc};

#[tokio::test]
async fn a_body_that_is_not_one_strict_message_is_refused_and_audited() {
    // The same with and without policies: nothing here depends on them.
    for changes in [json!({}), cedar(&[PERMIT_ALL])] {
        let harness = Harness::start(changes).await;
        let nested = |depth: usize| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"a","arguments":{{"x":{open}{close}}}}}}}"#
            )
        };
        let call =
            |rest: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{rest}}}"#);
        let table: Vec<(&str, Vec<u8>)> = vec![
            ("duplicate method", br#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#.to_vec()),
            ("duplicate method, escaped", br#"{"jsonrpc":"2.0","id":1,"method":"ping","\u006dethod":"tools/call"}"#.to_vec()),
            ("duplicate name", call(r#"{"name":"a","name":"b"}"#).into()),
            ("duplicate in arguments", call(r#"{"name":"a","arguments":{"x":1,"x":2}}"#).into()),
            ("duplicate deep inside", call(r#"{"name":"a","arguments":{"x":[{"y":{"z":1,"z":2}}]}}"#).into()),
            ("Method beside method", br#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#.to_vec()),
            ("METHOD alone", br#"{"jsonrpc":"2.0","id":1,"METHOD":"tools/call"}"#.to_vec()),
            ("long s in params", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"param\u{17f}\":{}}".into()),
            ("kelvin sign in a name of params", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{\"tas\u{212a}\":1}}".into()),
            ("Name beside name", call(r#"{"name":"a","Name":"b"}"#).into()),
            ("Arguments", call(r#"{"name":"a","Arguments":{}}"#).into()),
            ("depth 65", nested(62).into()),
            ("depth 10000", nested(10_000).into()),
            ("depth of objects", format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200)).into()),
            ("BOM", "\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}".into()),
            ("invalid UTF-8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"\xff\"}}".to_vec()),
            ("overlong UTF-8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"\xc0\xaf\"}}".to_vec()),
            ("UTF-16", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}".encode_utf16().flat_map(u16::to_le_bytes).collect()),
            ("lone surrogate in a name", call(r#"{"name":"a\ud800"}"#).into()),
            ("NUL in a name", call(r#"{"name":"a\u0000b"}"#).into()),
            ("NUL in a key", call(r#"{"name":"a","x\u0000":1}"#).into()),
            ("trailing data", br#"{"jsonrpc":"2.0","id":1,"method":"ping"}{"jsonrpc":"2.0","id":2,"method":"tools/call"}"#.to_vec()),
            ("trailing bracket", br#"{"jsonrpc":"2.0","id":1,"method":"ping"}]"#.to_vec()),
            ("a comment", br#"{"jsonrpc":"2.0",/* x */"id":1,"method":"ping"}"#.to_vec()),
            ("a trailing comma", br#"{"jsonrpc":"2.0","id":1,"method":"ping",}"#.to_vec()),
            ("NaN", call(r#"{"name":"a","arguments":{"x":NaN}}"#).into()),
            ("empty", Vec::new()),
            ("spaces", b"  \r\n ".to_vec()),
            ("text", b"tools/call".to_vec()),
            ("a number", b"7".to_vec()),
            ("null", b"null".to_vec()),
            ("cut off", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"#.to_vec()),
            ("id null", br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#.to_vec()),
            ("id a list", br#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#.to_vec()),
            ("id a fraction", br#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#.to_vec()),
            ("version 1", br#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#.to_vec()),
            ("version a number", br#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#.to_vec()),
            ("no version", br#"{"id":1,"method":"ping"}"#.to_vec()),
            ("method a number", br#"{"jsonrpc":"2.0","id":1,"method":7}"#.to_vec()),
            ("method and result", br#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#.to_vec()),
            ("neither", br#"{"jsonrpc":"2.0","id":1}"#.to_vec()),
            ("params null where a name is needed", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":null}"#.to_vec()),
            ("params a list", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["a"]}"#.to_vec()),
            ("name a number", call(r#"{"name":7}"#).into()),
            ("no name", call("{}").into()),
            ("no params", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#.to_vec()),
            ("uri a list", br#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":["x:y"]}}"#.to_vec()),
            ("completion of nothing", br#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{}}"#.to_vec()),
            ("form data", b"method=tools/call".to_vec()),
        ];
        for (index, (what, body)) in table.iter().enumerate() {
            let answer = harness.post_bytes(&[], body).await;
            assert_eq!(answer.status, 400, "{what}: {}", answer.text());
            assert!(
                answer.text().starts_with("Invalid or malformed MCP request"),
                "{what}: {}",
                answer.text()
            );
            let record = harness.audit.last(index + 1).await;
            assert_eq!(record["outcome"], "failure", "{what}");
            assert_eq!(record["subjects"]["user_id"], "alice", "{what}");
        }
        assert_eq!(harness.backend.connections(), 0, "the backend saw something");
    }
}

#[tokio::test]
async fn a_batch_is_refused_as_a_json_rpc_error_without_an_id() {
    let harness = Harness::start(json!({})).await;
    let expected = json!({"jsonrpc": "2.0", "error": {"code": -32600,
        "message": "JSON-RPC batch requests are not supported (batching was removed in MCP revision 2025-06-18)"}});
    for body in [r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, " \r\n\t[]", "[", "[[[[", "\u{20}[1]"] {
        let answer = harness.post_bytes(&[("MCP-Protocol-Version", "2025-03-26")], body.as_bytes()).await;
        assert_eq!((answer.status, answer.json()), (400, expected.clone()), "{body}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    assert_eq!(harness.backend.connections(), 0);
    assert_eq!(harness.audit.last(5).await["outcome"], "failure");
}

#[tokio::test]
async fn what_is_unusual_but_clear_is_forwarded_byte_for_byte() {
    let harness = Harness::start(json!({})).await;
    let deep = format!("{}{}", "[".repeat(61), "]".repeat(61));
    let bodies = [
        r#" {"params" : {"arguments":{"Name":1,"NAME":2,"name":3,"Method":"x"},"name":"tool-0"},"method":"tools/call","id":"ä\u00e4","jsonrpc":"2.0"}  "#.to_owned(),
        r#"{"jsonrpc":"2.0","id":12345678901234567890,"method":"tools/call","params":{"name":"tool-0","arguments":{"n":12345678901234567890.000,"z":-0.0}}}"#.to_owned(),
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"tool-0","arguments":{{"x":{deep}}}}}}}"#),
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\\u0070ing\",\"x\":\"\\ud83d\\ude00\"}\r\n".to_owned(),
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":7,"result":{"roots":[]}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"x"}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1.0,"method":"ping","params":{}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":null}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":"","method":"vendor/thing","params":{"a":1}}"#.to_owned(),
    ];
    for (index, body) in bodies.iter().enumerate() {
        let answer = harness.post_bytes(&[], body.as_bytes()).await;
        assert!(answer.status < 300, "{body}: {} {}", answer.status, answer.text());
        let seen = harness.backend.requests();
        assert_eq!(String::from_utf8_lossy(&seen[index].body), body.as_str());
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_however_it_comes() {
    let harness = Harness::start(json!({})).await;
    let fits = |length: usize| {
        let frame = rpc(1, "tools/call", json!({"name": "tool-0", "arguments": {"text": ""}})).to_string();
        let text = "x".repeat(length - frame.len());
        rpc(1, "tools/call", json!({"name": "tool-0", "arguments": {"text": text}})).to_string()
    };
    let largest = fits(8 << 20);
    assert_eq!(harness.post_bytes(&[], largest.as_bytes()).await.status, 200);
    let too_large = fits((8 << 20) + 1);
    let answer = harness.post_bytes(&[], too_large.as_bytes()).await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "Request Entity Too Large"));
    // Announced only: the answer comes before the body.
    let mut connection = RawConnection::open(harness.address).await;
    connection.send(harness.head("Content-Length: 99999999999\r\n").as_bytes()).await;
    assert_eq!(connection.read_answer().await.status, 413);
    // Chunked: nobody said how long it is.
    let mut connection = RawConnection::open(harness.address).await;
    connection.send(harness.head("Transfer-Encoding: chunked\r\n").as_bytes()).await;
    let chunk = vec![b' '; 1 << 20];
    for _ in 0..9 {
        connection.send(b"100000\r\n").await;
        connection.send(&chunk).await;
        connection.send(b"\r\n").await;
    }
    let answer = connection.read_answer().await;
    assert_eq!((answer.status, answer.header("connection")), (413, Some("close")));
    let records = harness.audit.wait(4).await;
    assert_eq!(records.iter().filter(|record| record["metadata"]["extra"]["http_status"] == 413).count(), 3);
    assert_eq!(harness.backend.requests().len(), 1);
}

#[tokio::test]
async fn only_plain_json_is_read() {
    let harness = Harness::start(json!({})).await;
    let body = call("tool-0").to_string();
    let table: &[(&[(&str, &str)], u16)] = &[
        (&[("Content-Type", "application/json")], 200),
        (&[("Content-Type", "APPLICATION/json;charset=utf-8")], 200),
        (&[("Content-Type", "application/json; charset=\"UTF-8\"; x=y")], 200),
        (&[("Content-Type", "text/plain")], 415),
        (&[("Content-Type", "")], 415),
        (&[("Content-Type", "application/json, text/plain")], 415),
        (&[("Content-Type", "application/jsonx")], 415),
        (&[("Content-Type", "application/x-www-form-urlencoded")], 415),
        (&[("Content-Type", "multipart/form-data; boundary=application/json")], 415),
        (&[("Content-Type", "application/json; charset=utf-16")], 415),
        (&[("Content-Type", "application/json; charset=utf-8; charset=utf-16")], 415),
        (&[("Content-Type", "application/json"), ("Content-Type", "application/json")], 415),
        (&[("Content-Type", "application/json"), ("Content-Encoding", "gzip")], 415),
        (&[("Content-Type", "application/json"), ("Content-Encoding", "identity, br")], 415),
        (&[("Content-Type", "application/json"), ("Content-Encoding", "identity")], 200),
    ];
    let mut forwarded = 0;
    for (headers, expected) in table {
        let answer = harness.post_bytes(headers, body.as_bytes()).await;
        assert_eq!(answer.status, *expected, "{headers:?}: {}", answer.text());
        forwarded += usize::from(*expected == 200);
    }
    let bearer = harness.bearer();
    let none =
        raw::request(harness.address, "POST", "/mcp", &[("Authorization", &bearer)], body.as_bytes()).await;
    assert_eq!(none.status, 415);
    assert_eq!(harness.backend.requests().len(), forwarded);
    harness.audit.last(table.len() + 1).await;
}

#[tokio::test]
async fn a_body_that_stalls_is_408_and_one_that_breaks_off_never_arrives() {
    let harness = Harness::start(json!({"skep": {"limits": {"body_idle_timeout_ms": 150}}})).await;
    let body = call("tool-0").to_string();
    let mut stalls = RawConnection::open(harness.address).await;
    stalls.send(harness.head(&format!("Content-Length: {}\r\n", body.len())).as_bytes()).await;
    stalls.send(&body.as_bytes()[..10]).await;
    let answer = stalls.read_answer().await;
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
    let mut breaks = RawConnection::open(harness.address).await;
    breaks.send(harness.head(&format!("Content-Length: {}\r\n", body.len() + 10)).as_bytes()).await;
    breaks.send(body.as_bytes()).await;
    breaks.finish_sending().await;
    let _ = breaks.read_to_end().await;
    let records = harness.audit.wait(2).await;
    assert_eq!(records[0]["metadata"]["extra"]["http_status"], 408);
    assert_eq!(records[1]["outcome"], "failure");
    assert_eq!(harness.backend.connections(), 0);
}

#[tokio::test]
async fn a_body_that_drips_for_ever_is_cut_off() {
    let harness = Harness::start(json!({"skep": {"limits": {"body_idle_timeout_ms": 200}}})).await;
    let mut drips = RawConnection::open(harness.address).await;
    drips.send(harness.head("Content-Length: 1000\r\n").as_bytes()).await;
    // Each byte comes well within the idle bound, so only a bound on the whole ends this.
    let sender = async {
        for _ in 0..1000 {
            drips.send(b" ").await;
            if !harness.audit.records().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), sender).await.unwrap();
    assert_eq!(harness.audit.last(1).await["metadata"]["extra"]["http_status"], 408);
}

#[tokio::test]
async fn headers_that_repeat_the_body_must_agree_with_it() {
    let harness = Harness::start(json!({})).await;
    let body = call("tool-0");
    let table: &[(&[(&str, &str)], bool)] = &[
        (&[("Mcp-Method", "tools/call"), ("Mcp-Name", "tool-0")], true),
        (&[("mcp-method", "  tools/call  "), ("MCP-NAME", "=?base64?dG9vbC0w?=")], true),
        (&[("Mcp-Method", "tools/list")], false),
        (&[("Mcp-Method", "")], false),
        (&[("Mcp-Method", "Tools/Call")], false),
        (&[("Mcp-Method", "tools/call"), ("Mcp-Method", "tools/list")], false),
        (&[("Mcp-Method", "tools/call"), ("Mcp-Name", "tool-1")], false),
        (&[("Mcp-Name", "tool-0"), ("Mcp-Name", "tool-0")], false),
        (&[("Mcp-Name", "Tool-0")], false),
        (&[("Mcp-Name", "=?base64?dG9vbC0x?=")], false),
        (&[("Mcp-Name", "=?base64?***?=")], false),
    ];
    for (headers, fine) in table {
        let answer = harness.post_bytes(headers, body.to_string().as_bytes()).await;
        if *fine {
            assert_eq!(answer.status, 200, "{headers:?}: {}", answer.text());
            continue;
        }
        assert_eq!(answer.status, 400, "{headers:?}");
        assert_eq!(answer.json()["error"]["code"], -32020, "{headers:?}");
        assert_eq!(answer.json()["id"], 1, "{headers:?}");
    }
    assert_eq!(harness.backend.requests().len(), 2);
    harness.audit.last(table.len()).await;
}

#[tokio::test]
async fn unknown_protocol_versions_are_refused_only_where_that_is_asked_for() {
    let strict = Harness::start(json!({"strict_protocol_validation": true})).await;
    let lax = Harness::start(json!({})).await;
    for (versions, known) in [
        (vec!["2024-11-05"], true),
        (vec!["2025-03-26"], true),
        (vec!["2025-06-18"], true),
        (vec!["2025-11-25"], true),
        (vec!["2026-07-28"], true),
        (vec![], true),
        (vec!["2024-10-07"], false),
        (vec!["DRAFT"], false),
        (vec![""], false),
        (vec!["2025-11-25", "1999-01-01"], false),
    ] {
        let headers: Vec<_> = versions.iter().map(|version| ("MCP-Protocol-Version", *version)).collect();
        let body = call("tool-0").to_string();
        let answer = strict.post_bytes(&headers, body.as_bytes()).await;
        assert_eq!(answer.status, if known { 200 } else { 400 }, "{versions:?}");
        if !known {
            assert_eq!(answer.text(), "Unsupported MCP-Protocol-Version");
        }
        assert_eq!(lax.post_bytes(&headers, body.as_bytes()).await.status, 200, "{versions:?}");
    }
    strict.audit.last(10).await;
}

#[tokio::test]
async fn ids_come_back_as_they_were_written() {
    let harness = Harness::start(cedar(&["forbid(principal, action, resource);"])).await;
    for id in [
        "1",
        "-7",
        "\"a\\\"b\"",
        "\"ä\"",
        "9007199254740993",
        "123456789012345678901234567890",
        "1.0",
        "\"\"",
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"x"}}}}"#);
        let answer = harness.post_bytes(&[], body.as_bytes()).await;
        assert_eq!(answer.status, 403);
        assert_eq!(
            answer.text(),
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":403,"message":"Unauthorized"}}}}"#)
        );
    }
    let notification = json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "x"}});
    let answer = harness.post(&notification).await;
    assert_eq!(answer.json(), json!({"jsonrpc": "2.0", "error": {"code": 403, "message": "Unauthorized"}}));
    assert_eq!(answer.json().get("id"), None::<&Value>);
    assert_eq!(harness.backend.connections(), 0);
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_is_told_to_go_on_only_when_it_may() {
    let harness = Harness::start(json!({})).await;
    let body = call("tool-0").to_string();
    let mut known = RawConnection::open(harness.address).await;
    let expect = format!("Expect: 100-continue\r\nContent-Length: {}\r\n", body.len());
    known.send(harness.head(&expect).as_bytes()).await;
    assert_eq!(known.read_head().await.status, 100);
    known.send(body.as_bytes()).await;
    assert_eq!(known.read_answer().await.status, 200);
    assert_eq!(harness.backend.requests()[0].header("expect"), None);
    let mut stranger = RawConnection::open(harness.address).await;
    let head = harness.head(&expect).replace("Authorization", "X-Authorization");
    stranger.send(head.as_bytes()).await;
    assert_eq!(stranger.read_head().await.status, 401);
    let mut greedy = RawConnection::open(harness.address).await;
    greedy.send(harness.head("Expect: 100-continue\r\nContent-Length: 99999999\r\n").as_bytes()).await;
    assert_eq!(greedy.read_head().await.status, 413);
}
