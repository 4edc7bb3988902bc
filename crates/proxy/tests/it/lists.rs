//! What of a list policies leave, in every shape it may come.

use bytes::Bytes;
use serde_json::{Value, json};
use skep_testkit::backend::{replies, streams, well_behaved};
use skep_testkit::server::{Framing, Step};
use skep_testkit::{McpBackend, Reply};

use crate::authorization::POLICIES;
use crate::harness::{Harness, PERMIT_ALL, call, cedar, names, rpc};

#[tokio::test]
async fn lists_show_what_may_be_used() {
    let harness = Harness::start(cedar(&POLICIES)).await;
    for (method, member, key, expected) in [
        ("tools/list", "tools", "name", vec!["tool-0"]),
        ("prompts/list", "prompts", "name", vec!["greet"]),
        ("resources/list", "resources", "uri", vec!["test://one"]),
        ("resources/templates/list", "resourceTemplates", "uriTemplate", vec![]),
    ] {
        let answer = harness.post(&rpc("a", method, json!({}))).await;
        assert_eq!(answer.status, 200, "{method}");
        assert_eq!(names(&answer.json(), member, key), expected, "{method}");
        assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
    }
    let everything = Harness::start(cedar(&[PERMIT_ALL])).await;
    let through = everything.post(&rpc(1, "tools/list", json!({}))).await;
    let direct = skep_testkit::raw::post_rpc(
        everything.backend.address(),
        "/mcp",
        None,
        &rpc(1, "tools/list", json!({})),
    )
    .await;
    assert_eq!(through.body, direct.body, "nothing filtered, nothing changed");
}

fn list() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": "secret-tool"}, {"name": "tool-0"}]}})
}

#[tokio::test]
async fn a_list_in_an_event_stream_is_filtered_wherever_it_is_cut() {
    let mut streams = streams::oddities(&list());
    let before = "event: message\r\n: comment\r\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":1,\"progress\":1}}\r\nid: 7\r\nretry: 250\r\n\r\n";
    streams.push(streams::Oddity {
        name: "after a progress event",
        stream: format!("{before}data: {}\n\n", list()).into_bytes(),
    });
    streams.push(streams::Oddity {
        name: "without its blank line",
        stream: format!("data: {}\n", list()).into_bytes(),
    });
    streams.push(streams::Oddity {
        name: "without its line end",
        stream: format!("data: {}", list()).into_bytes(),
    });
    streams.push(streams::Oddity {
        name: "tabs and spaces",
        stream: format!("data:  \t{}\t \n\n", list()).into_bytes(),
    });
    streams.push(streams::Oddity {
        name: "a field that ends in data",
        stream: format!("xdata: 1\ndata: {}\n\n", list()).into_bytes(),
    });
    let harness = Harness::start(cedar(&POLICIES)).await;
    for odd in &streams {
        for cut in [1, 2, 3, 5, 11, 4096] {
            let stream = odd.stream.clone();
            harness.backend.set_handler(move |_| Reply::sse_cut(&stream, cut));
            let answer = harness.post(&rpc(1, "tools/list", json!({}))).await;
            let text = answer.text();
            assert!(answer.complete && !text.contains("secret-tool"), "{} by {cut}: {text:?}", odd.name);
            assert!(text.contains("tool-0"), "{} by {cut}: {text:?}", odd.name);
            let original = String::from_utf8_lossy(&odd.stream).into_owned();
            for kept in [": comment\r\n", "retry: 250", "id: 7", "id: 8", "odd: 1", ": keep-alive\n"] {
                assert_eq!(text.contains(kept), original.contains(kept), "{} by {cut}: {text:?}", odd.name);
            }
            if original.contains(before) {
                assert!(text.starts_with(before), "{}: {text:?}", odd.name);
            }
        }
    }
}

#[tokio::test]
async fn lists_are_filtered_on_every_stream_and_every_time() {
    let harness = Harness::start(cedar(&[POLICIES[0], POLICIES[1]])).await;
    let twice = format!("data: {}\n\ndata: {}\n\n", list(), list());
    let others = json!({"jsonrpc": "2.0", "id": "other", "result": {"tools": [{"name": "secret-tool"}]}});
    let batch = format!("data: [{},{}]\n\n", list(), others);
    let streams = [twice, format!("data: {others}\n\ndata: {}\n\n", list()), batch];
    for stream in streams {
        harness.backend.set_handler(move |_| Reply::sse([stream.clone()]));
        for request in [
            rpc(1, "tools/list", json!({})),
            rpc(2, "ping", json!({})),
            call("tool-0"),
            rpc(1, "prompts/list", json!({})),
        ] {
            let answer = harness.post(&request).await;
            assert!(!answer.text().contains("secret-tool"), "{request}: {}", answer.text());
        }
        for headers in [vec![], vec![("Last-Event-ID", "5")]] {
            let answer = harness.send("GET", "/mcp", &headers, b"").await;
            assert_eq!(answer.status, 200);
            assert!(
                !answer.text().contains("secret-tool") && answer.text().contains("tool-0"),
                "{}",
                answer.text()
            );
        }
    }
}

#[tokio::test]
async fn a_list_that_cannot_be_filtered_is_not_shown() {
    let harness = Harness::start(cedar(&POLICIES)).await;
    let good = list().to_string();
    let bodies: Vec<(&str, String)> = vec![
        ("not JSON", format!("{good}x")),
        ("two documents", format!("{good}{good}")),
        ("BOM", format!("\u{feff}{good}")),
        ("duplicate result", good.replacen("\"result\"", "\"result\":{},\"result\"", 1)),
        ("Result beside result", good.replacen("\"result\"", "\"result\":{\"tools\":[]},\"Result\"", 1)),
        ("Result alone", good.replacen("\"result\"", "\"Result\"", 1)),
        ("duplicate tools", good.replacen("\"tools\"", "\"tools\":[],\"tools\"", 1)),
        ("tools in capitals", good.replacen("\"tools\"", "\"Tools\"", 1)),
        ("tools and Tools", good.replacen("\"tools\"", "\"tools\":[],\"Tools\"", 1)),
        ("Name", good.replacen("\"name\"", "\"Name\"", 1)),
        (
            "name and Name",
            good.replacen("\"name\":\"secret-tool\"", "\"name\":\"tool-0\",\"Name\":\"secret-tool\"", 1),
        ),
        ("an object of tools", good.replacen('[', "{\"a\":", 1).replacen(']', "}", 1)),
        ("names that are numbers", good.replacen("\"secret-tool\"", "7,\"x\":\"secret-tool\"", 1)),
        ("event stream in disguise", format!("data: {good}\n\n")),
        ("cut off", good.strip_suffix("}}").unwrap().to_owned()),
        ("nothing", String::new()),
    ];
    for (what, body) in bodies {
        let text = body.clone();
        harness.backend.set_handler(move |_| Reply::body(200, "application/json", text.clone()));
        let answer = harness.post(&rpc(1, "tools/list", json!({}))).await;
        assert_eq!(answer.status, 502, "{what}: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"], 502, "{what}");
        assert_eq!(answer.json()["id"], 1, "{what}");
        assert!(!answer.text().contains("secret-tool"), "{what}");
        // The same as an event: the stream ends with an error for the request.
        if what == "event stream in disguise" || what == "nothing" || what == "BOM" {
            continue;
        }
        let event = format!("data: {body}\n\n");
        harness.backend.set_handler(move |_| Reply::sse([event.clone()]).step(Step::Hang));
        let answer = harness.post(&rpc(1, "tools/list", json!({}))).await;
        let text = answer.text();
        assert!(answer.complete && !text.contains("secret-tool"), "{what}: {text}");
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let error: Value = serde_json::from_str(data).unwrap();
        assert_eq!((&error["id"], &error["error"]["code"]), (&json!(1), &json!(502)), "{what}: {text}");
    }
    for record in harness.audit.wait(10).await {
        assert_eq!(record["outcome"], "error", "{record}");
    }
}

#[tokio::test]
async fn a_list_under_a_wrong_name_is_filtered_or_refused() {
    let harness = Harness::start(cedar(&POLICIES)).await;
    for (kind, body, status) in [
        ("text/plain", list().to_string(), 200),
        ("application/octet-stream", list().to_string(), 200),
        ("Application/JSON; charset=utf-8", list().to_string(), 200),
        ("text/plain", format!("data: {}\n\n", list()), 502),
        ("TEXT/Event-Stream; charset=utf-8", format!("data: {}\n\n", list()), 200),
        ("text/event-stream", list().to_string(), 200),
        ("text/event-stream", format!("{}\n\n", list()), 200),
        ("text/event-stream", format!(" {}\n\n", list()), 200),
        ("text/event-stream", format!("{{\n\"jsonrpc\":\"2.0\",\n\"id\":1,\"result\":{{\n{}", list()), 200),
    ] {
        let text = body.clone();
        harness.backend.set_handler(move |_| Reply::body(200, kind, text.clone()));
        let answer = harness.post(&rpc(1, "tools/list", json!({}))).await;
        assert_eq!(answer.status, status, "{kind} {body}: {}", answer.text());
        assert!(!answer.text().contains("secret-tool"), "{kind} {body}: {}", answer.text());
    }
    let two = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Type: text/event-stream\r\nContent-Length: {}\r\n\r\n{}",
        list().to_string().len() + 8,
        format_args!("data: {}\n\n", list())
    );
    harness.backend.set_handler(move |_| Reply::raw_bytes(two.clone()));
    let answer = harness.post(&rpc(1, "tools/list", json!({}))).await;
    assert!(!answer.text().contains("secret-tool"), "{}", answer.text());
}

#[tokio::test]
async fn a_list_with_another_status_is_not_a_way_around() {
    let harness = Harness::start(cedar(&POLICIES)).await;
    for status in [201, 202, 206, 300, 400, 404, 500] {
        harness.backend.set_handler(move |_| Reply::body(status, "application/json", list().to_string()));
        let answer = harness.post(&rpc(1, "tools/list", json!({}))).await;
        assert!(!answer.text().contains("secret-tool"), "{status}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_compressed_list_is_refused() {
    let harness = Harness::start(cedar(&POLICIES)).await;
    for encoding in ["gzip", "br", "GZIP, identity"] {
        for kind in ["application/json", "text/event-stream"] {
            harness.backend.set_handler(move |_| {
                Reply::body(200, kind, "\u{1}\u{2}").header("Content-Encoding", encoding)
            });
            let answer = harness.post(&rpc(1, "tools/list", json!({}))).await;
            assert_eq!(answer.status, 502, "{encoding}");
        }
    }
    harness.backend.set_handler(|_| {
        Reply::body(200, "application/json", list().to_string())
            .header("Content-Encoding", "identity")
            .header("Content-Encoding", "gzip")
    });
    assert_eq!(harness.post(&rpc(1, "tools/list", json!({}))).await.status, 502);
    // Nobody is told that the proxy could read it.
    assert!(
        harness
            .backend
            .requests()
            .iter()
            .all(|request| request.header_all("accept-encoding") == ["identity"])
    );
}

#[tokio::test]
async fn a_list_that_is_too_large_to_filter_is_502() {
    let mut changes = cedar(&POLICIES);
    changes["skep"] = json!({"limits": {"list_bytes": 10_000, "sse_frame_bytes": 10_000}});
    let harness = Harness::start(changes).await;
    harness.backend.set_handler(|request| replies::huge_list(request, 20_000));
    let answer = harness.post(&rpc(1, "tools/list", json!({}))).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &json!(502)));
    harness.backend.set_handler(|request| replies::huge_frame(request, 20_000));
    let answer = harness.post(&rpc(1, "tools/list", json!({}))).await;
    assert!(answer.text().contains("\"code\":502") && !answer.text().contains("xxxx"), "{}", answer.text());
    harness.backend.set_handler(|_| replies::endless_line(20_000));
    let answer = harness.post(&rpc(1, "tools/list", json!({}))).await;
    assert!(answer.complete && answer.text().contains("\"code\":502"));
    harness.backend.wait_for_aborts(1).await;
}

#[tokio::test]
async fn an_answer_that_is_no_list_streams_through_policies_untouched() {
    let backend = McpBackend::start(|request| match request.rpc_method().as_str() {
        "tools/call" => Reply::status(200)
            .header("Content-Type", "application/json")
            .framing(Framing::Chunked)
            .step(Step::Send(Bytes::from_static(
                b" {\"result\":{\"content\":[],\"tools\":[{\"name\":\"x\"}]},",
            )))
            .step(Step::Send(Bytes::from_static(b"\"jsonrpc\":\"2.0\",\"id\":1.0}\n"))),
        _ => well_behaved(request, 3),
    })
    .await;
    let harness = Harness::before(backend, cedar(&POLICIES)).await;
    let answer = harness.post(&call("tool-0")).await;
    let expected =
        " {\"result\":{\"content\":[],\"tools\":[{\"name\":\"x\"}]},\"jsonrpc\":\"2.0\",\"id\":1.0}\n";
    assert_eq!(answer.text(), expected);
}

#[tokio::test]
async fn a_filtered_list_is_marked_private() {
    let backend = McpBackend::start(|request| {
        replies::rpc_result(
            request,
            &json!({"tools": [{"name": "tool-0"}], "ttlMs": 60_000, "cacheScope": "public"}),
        )
    })
    .await;
    let harness = Harness::before(backend, cedar(&POLICIES)).await;
    let answer = harness.post(&rpc(1, "tools/list", json!({}))).await;
    assert_eq!(answer.json()["result"]["cacheScope"], "private");
}
