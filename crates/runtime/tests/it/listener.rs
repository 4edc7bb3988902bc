//! The HTTP server under every listener: bounds, timeouts, keep-alive, drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use skep_runtime::drain::{Drain, DrainTimes, Phase};
use skep_runtime::http::{Ends, HttpLimits, Load, ResponseBody, bind, full, serve};
use skep_testkit::{Gate, RawConnection};
use tokio::task::JoinHandle;

struct Listener {
    address: SocketAddr,
    drain: Drain,
    load: Load,
    /// Requests that reached the handler.
    handled: Arc<AtomicUsize>,
    /// Handlers that were dropped before they had an answer.
    abandoned: Arc<AtomicUsize>,
    gate: Gate,
    serving: JoinHandle<()>,
}

struct Counted {
    count: Arc<AtomicUsize>,
    answered: bool,
}

impl Counted {
    fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if !self.answered {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Answers with the length of the body; `/refuse` without reading it; `/wait` once the gate is open.
async fn listen(limits: HttpLimits) -> Listener {
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let (handled, abandoned, gate) =
        (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Gate::new());
    let (drain, load) = (Drain::new(), Load::default());
    let handler = {
        let (handled, abandoned, gate) = (Arc::clone(&handled), Arc::clone(&abandoned), gate.clone());
        move |request: Request<Incoming>, _: Ends| {
            handled.fetch_add(1, Ordering::SeqCst);
            let mut counted = Counted { count: Arc::clone(&abandoned), answered: false };
            let gate = gate.clone();
            async move {
                let path = request.uri().path().to_owned();
                let mut response: Response<ResponseBody> = Response::new(full("refused"));
                match path.as_str() {
                    "/refuse" => *response.status_mut() = StatusCode::UNAUTHORIZED,
                    "/wait" => {
                        gate.opened().await;
                        *response.body_mut() = full("waited");
                    }
                    _ => match request.into_body().collect().await {
                        Ok(body) => *response.body_mut() = full(format!("{path} {}", body.to_bytes().len())),
                        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
                    },
                }
                counted.answered();
                response
            }
        }
    };
    let serving = tokio::spawn(serve(socket, Arc::new(handler), limits, drain.watch(), load.clone()));
    Listener { address, drain, load, handled, abandoned, gate, serving }
}

impl Listener {
    async fn connect(&self) -> RawConnection {
        RawConnection::open(self.address).await
    }

    fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(15), future).await {
        Ok(value) => value,
        Err(_) => panic!("still waiting: {what}"),
    }
}

fn short(header_ms: u64, idle_ms: u64) -> HttpLimits {
    HttpLimits {
        header_timeout: Duration::from_millis(header_ms),
        idle_timeout: Duration::from_millis(idle_ms),
        ..HttpLimits::default()
    }
}

#[tokio::test]
async fn headers_beyond_the_bounds_are_431() {
    let listener = listen(HttpLimits::default()).await;
    for (what, head, expected) in [
        ("30 KiB", format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(30 << 10)), 200),
        (
            "33 KiB in one header",
            format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(33 << 10)),
            431,
        ),
        (
            "33 KiB in 33 headers",
            format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", format!("X: {}\r\n", "x".repeat(1020)).repeat(33)),
            431,
        ),
        ("33 KiB without an end", format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(33 << 10)), 431),
        ("1 MiB", format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)), 431),
        ("100 headers", format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: 1\r\n".repeat(99)), 200),
        ("101 headers", format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: 1\r\n".repeat(100)), 431),
        ("a long target", format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(33 << 10)), 431),
    ] {
        let before = listener.handled();
        let mut connection = listener.connect().await;
        connection.send(head.as_bytes()).await;
        let answer = connection.read_answer().await;
        let status = if what == "a long target" && answer.status == 414 { 431 } else { answer.status };
        assert_eq!(status, expected, "{what}");
        assert_eq!(listener.handled() - before, usize::from(expected == 200), "{what}");
    }
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_closed() {
    let listener = listen(HttpLimits::default()).await;
    for bytes in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(),
        b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHo st: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\0y\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"G\xff / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ] {
        let mut connection = listener.connect().await;
        connection.send(bytes).await;
        let answer = connection.read_to_end().await;
        let text = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || text.starts_with("HTTP/1.1 4"),
            "{:?}: {text}",
            String::from_utf8_lossy(bytes)
        );
        assert!(text.matches("HTTP/1.1").count() <= 1, "{text}");
    }
    let served = listener.handled();
    assert!(served == 0, "{served} of them reached the handler");
}

#[tokio::test]
async fn slow_headers_are_408_and_the_connection_is_closed() {
    let listener = listen(short(150, 60_000)).await;
    // All at once and then nothing; and a byte now and then: the whole head has one deadline.
    let mut stalls = listener.connect().await;
    stalls.send(b"GET / HTTP/1.1\r\nHost:").await;
    let answer = soon("408", stalls.read_answer()).await;
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
    assert!(stalls.read_to_end().await.is_empty());
    let mut drips = listener.connect().await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(400) {
        drips.send(b"X").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let answer = String::from_utf8_lossy(&drips.read_to_end().await).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    // The second request of a connection has the same deadline as the first.
    let mut second = listener.connect().await;
    assert_eq!(second.request("GET", "/a", &[], b"").await.status, 200);
    second.send(b"GET / HTTP/1.1\r\n").await;
    assert_eq!(soon("408", second.read_answer()).await.status, 408);
    assert_eq!(listener.handled(), 1);
}

#[tokio::test]
async fn a_head_that_began_together_with_another_request_ends_at_the_idle_timeout_at_the_latest() {
    let listener = listen(short(150, 600)).await;
    let mut pipelined = listener.connect().await;
    pipelined.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHos").await;
    assert_eq!(pipelined.read_answer().await.status, 200);
    let started = Instant::now();
    let rest = soon("the end", pipelined.read_to_end()).await;
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(listener.handled(), 1);
}

#[tokio::test]
async fn an_idle_connection_lives_past_the_header_timeout_and_ends_at_its_own() {
    let listener = listen(short(100, 600)).await;
    let mut connection = listener.connect().await;
    for _ in 0..3 {
        assert_eq!(connection.request("POST", "/a", &[], b"hello").await.text(), "/a 5");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(listener.load.connections(), 1);
    let started = Instant::now();
    assert!(
        soon("the end", connection.read_to_end()).await.is_empty(),
        "no 408 to somebody who asked nothing"
    );
    assert!(started.elapsed() < Duration::from_secs(3));
    // A connection on which nothing ever came ends too.
    let mut silent = listener.connect().await;
    assert!(soon("the end", silent.read_to_end()).await.is_empty());
}

#[tokio::test]
async fn a_slow_answer_or_a_slow_body_is_no_slow_header() {
    let listener = listen(short(100, 200)).await;
    let mut connection = listener.connect().await;
    connection.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let gate = listener.gate.clone();
    let opener = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        gate.open();
    });
    assert_eq!(connection.read_answer().await.text(), "waited");
    opener.await.unwrap();
    let mut slow = listener.connect().await;
    slow.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n").await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        slow.send(b"x").await;
    }
    assert_eq!(slow.read_answer().await.text(), "/a 10");
}

#[tokio::test]
async fn connections_over_the_bound_wait_for_a_place() {
    let listener = listen(HttpLimits { connections: 2, ..HttpLimits::default() }).await;
    let (mut first, mut second) = (listener.connect().await, listener.connect().await);
    assert_eq!(first.request("GET", "/1", &[], b"").await.status, 200);
    assert_eq!(second.request("GET", "/2", &[], b"").await.status, 200);
    let mut third = listener.connect().await;
    third.send(b"GET /3 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(tokio::time::timeout(Duration::from_millis(150), third.read_head()).await.is_err());
    assert_eq!(listener.handled(), 2);
    drop(first);
    assert_eq!(soon("a place", third.read_answer()).await.text(), "/3 0");
}

#[tokio::test]
async fn requests_in_one_go_are_answered_in_their_order() {
    let listener = listen(HttpLimits::default()).await;
    let mut connection = listener.connect().await;
    connection
        .send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: x\r\n\r\nPOST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\n")
        .await;
    for expected in ["/a 3", "/b 0", "/c 2"] {
        assert_eq!(connection.read_answer().await.text(), expected);
    }
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let listener = listen(HttpLimits::default()).await;
    for round in 0..30 {
        let mut connection = listener.connect().await;
        let body = vec![b'x'; 4 << 20];
        let answer = connection.request("POST", "/refuse", &[], &body).await;
        assert_eq!((answer.status, answer.text().as_str()), (401, "refused"), "round {round}");
        // Most clients give up at the first error of a write, whatever there is to read.
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::TcpStream::connect(listener.address).await.unwrap();
        let head = format!("POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        soon("the body to be taken", stream.write_all(&body))
            .await
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_takes_its_request_with_it() {
    let listener = listen(HttpLimits::default()).await;
    for (index, reset) in [true, false].into_iter().enumerate() {
        let mut connection = listener.connect().await;
        connection.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
        soon("the request", async {
            while listener.handled() <= index {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        if reset {
            connection.reset();
        } else {
            drop(connection);
        }
        soon("the end of the request", async {
            while listener.abandoned.load(Ordering::SeqCst) <= index {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_takes_nothing_new() {
    let listener = listen(HttpLimits::default()).await;
    let mut idle = listener.connect().await;
    assert_eq!(idle.request("GET", "/a", &[], b"").await.status, 200);
    let mut running = listener.connect().await;
    running.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    listener.drain.advance(Phase::Leaving);
    assert_eq!(idle.request("GET", "/a", &[], b"").await.status, 200, "leaving still serves");
    assert_eq!(listener.connect().await.request("GET", "/a", &[], b"").await.status, 200);
    listener.drain.advance(Phase::Draining);
    assert!(soon("the idle connection ends", idle.read_to_end()).await.is_empty());
    soon("nobody listens", async {
        while tokio::net::TcpStream::connect(listener.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(!listener.serving.is_finished());
    listener.gate.open();
    let answer = running.read_answer().await;
    assert_eq!(answer.text(), "waited");
    soon("the listener ends", listener.serving).await.unwrap();
    assert_eq!(listener.load.connections(), 0);
}

#[tokio::test]
async fn what_still_runs_at_the_end_of_a_drain_is_cut_off() {
    let listener = listen(HttpLimits::default()).await;
    let mut running = listener.connect().await;
    running.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    soon("the request", async {
        while listener.handled() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let times = DrainTimes { pre_stop: Duration::ZERO, grace: Duration::from_millis(100) };
    soon("the drain", listener.drain.run(times, listener.load.idle())).await;
    assert!(soon("the cut", running.read_to_end()).await.is_empty());
    soon("the listener ends", listener.serving).await.unwrap();
}
