//! What goes through the proxy is what goes without it, byte for byte, where nothing filters.

use serde_json::json;
use skep_runtime::rng::Rng;
use skep_testkit::server::{Framing, Step};
use skep_testkit::{McpBackend, RawConnection, Reply, SeededRng};

use crate::harness::{Harness, PERMIT_ALL, cedar};

const CASES: u64 = 300;

struct Draw(SeededRng);

impl Draw {
    fn new(seed: u64) -> Self {
        Self(SeededRng::new(seed))
    }

    fn below(&self, bound: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes) % (bound as u64)).unwrap()
    }

    fn of<'a>(&self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    /// JSON in an odd spelling.
    fn json(&self, depth: usize) -> String {
        let space = self.of(&["", "", " ", "\t", "\u{20}\u{20}"]);
        let text = match self.below(if depth == 0 { 4 } else { 7 }) {
            0 => self.of(&["null", "true", "false"]).to_owned(),
            1 => self
                .of(&["0", "-0.0", "1e10", "12345678901234567890", "0.10000000000000000001", "1E-7", "3.50"])
                .to_owned(),
            2 | 3 => self
                .of(&[
                    "\"\"",
                    "\"ä\\u00e4\"",
                    "\"\\n\\t\\\\\\/\"",
                    "\"\u{1f980}\"",
                    "\"data: x\"",
                    "\"error\"",
                    "\"\\ud83d\\ude00\"",
                ])
                .to_owned(),
            4 => {
                let items: Vec<String> = (0..self.below(4)).map(|_| self.json(depth - 1)).collect();
                format!("[{}]", items.join(","))
            }
            _ => {
                let members: Vec<String> = (0..self.below(4))
                    .map(|index| format!("\"k{index}\"{space}:{}", self.json(depth - 1)))
                    .collect();
                format!("{{{}}}", members.join(","))
            }
        };
        format!("{space}{text}{space}")
    }

    fn request(&self, case: u64) -> String {
        let id = self.of(&["1", "\"a\"", "0", "9007199254740993", "\"\\u0061\"", "-3"]);
        let arguments = format!("{{\"x\":{},\"Name\":{}}}", self.json(3), self.json(2));
        match self.below(6) {
            0 => {
                format!("{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/n\",\"params\":{{\"c\":{case}}}}}")
            }
            1 => format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{}}}", self.json(3)),
            2 => format!(
                " {{\"params\":{{\"arguments\":{arguments},\"name\":\"t\"}},\"id\":{id},\"method\":\"tools/call\",\"jsonrpc\":\"2.0\"}}\n"
            ),
            3 => format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"resources/read\",\"params\":{{\"uri\":\"x:{case}\"}}}}"
            ),
            4 => format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"ping\"}}"),
            _ => format!(
                "{{\"jsonrpc\" : \"2.0\" , \"id\" : {id} , \"method\" : \"tools/call\" , \"params\" : {{ \"name\" : \"t\" , \"arguments\" : {arguments} }} }}"
            ),
        }
    }

    fn event(&self) -> String {
        let end = self.of(&["\n", "\r\n", "\r"]);
        let mut lines = Vec::new();
        for _ in 0..self.below(4) {
            lines.push(
                self.of(&[
                    ": comment",
                    ":",
                    "id: 7",
                    "id",
                    "retry: 100",
                    "event: message",
                    "odd: x",
                    "data",
                    "data:",
                ])
                .to_owned(),
            );
        }
        let message =
            format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"content\":[],\"v\":{}}}}}", self.json(3));
        if self.below(4) > 0 && !lines.iter().any(|line| line.starts_with("data")) {
            lines.push(format!("data:{}{message}", self.of(&["", " "])));
        }
        lines.push(String::new());
        lines.into_iter().map(|line| line + end).collect()
    }

    fn reply(&self) -> Reply {
        let status = [200, 200, 200, 201, 400, 404, 500][self.below(7)];
        let framing = [Framing::Chunked, Framing::Length, Framing::UntilClose][self.below(3)];
        let (kind, body) = match self.below(5) {
            0 | 1 => ("text/event-stream", (0..self.below(6)).map(|_| self.event()).collect::<String>()),
            2 => ("text/event-stream; charset=utf-8", format!("{}: no blank line", self.event())),
            3 => ("text/plain", self.json(4)),
            _ => {
                ("application/json", format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}}", self.json(4)))
            }
        };
        let size = 1 + self.below(40);
        let mut reply =
            Reply::status(status).header("Content-Type", kind).header("Mcp-Session-Id", "s").framing(framing);
        for part in body.as_bytes().chunks(size) {
            reply = reply.step(Step::Send(bytes::Bytes::copy_from_slice(part)));
        }
        reply
    }
}

#[tokio::test]
async fn generated_exchanges_are_equal_direct_and_through_the_proxy() {
    for changes in [json!({}), cedar(&[PERMIT_ALL])] {
        let filtering = changes != json!({});
        let backend = McpBackend::start(|request| {
            let case = request.header("x-case").unwrap().parse().unwrap();
            Draw::new(case).reply()
        })
        .await;
        let harness = Harness::before(backend, changes).await;
        let bearer = harness.bearer();
        for case in 0..CASES {
            let body = Draw::new(case + 1_000_000).request(case);
            let number = case.to_string();
            let headers = [
                ("Content-Type", "application/json"),
                ("Accept", "application/json, text/event-stream"),
                ("X-Case", number.as_str()),
                ("Authorization", bearer.as_str()),
            ];
            let mut direct = RawConnection::open(harness.backend.address()).await;
            let expected = direct.request("POST", "/mcp", &headers, body.as_bytes()).await;
            let mut through = RawConnection::open(harness.address).await;
            let found = through.request("POST", "/mcp", &headers, body.as_bytes()).await;
            assert_eq!(
                found.status,
                expected.status,
                "case {case}, filter {filtering}: {body} {}",
                found.text()
            );
            assert_eq!(found.text(), expected.text(), "case {case}, filter {filtering}");
            assert_eq!(found.body, expected.body, "case {case}");
            assert!(found.complete, "case {case}");
            for name in ["content-type", "mcp-session-id"] {
                assert_eq!(found.header_all(name), expected.header_all(name), "case {case}");
            }
            let seen = harness.backend.requests();
            let [.., first, second] = seen.as_slice() else { panic!() };
            assert_eq!(first.body, second.body, "case {case}");
            assert_eq!(second.header("accept"), Some("application/json, text/event-stream"));
            harness.backend.forget();
        }
    }
}
