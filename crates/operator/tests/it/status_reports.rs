//! Asking pods for their report, against servers that do whatever they like.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skep_api::address::Egress;
use skep_api::report::ProxyReport;
use skep_operator::observe::{PodReport, ReportError, ReportErrorKind, Reporter, ReporterSettings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A server on a loopback address that answers every connection with these bytes, chunk by chunk with a pause
/// before each but the first.
struct Pod {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

async fn pod(ip: &str, chunks: Vec<Vec<u8>>, pause: Duration) -> Pod {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let chunks = chunks.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let _ = stream.read(&mut request).await;
                for (index, chunk) in chunks.iter().enumerate() {
                    if index > 0 {
                        tokio::time::sleep(pause).await;
                    }
                    if stream.write_all(chunk).await.is_err() {
                        return;
                    }
                }
                let _ = stream.shutdown().await;
            });
        }
    });
    Pod { address, asked }
}

async fn answering(status: &str, headers: &str, body: &[u8]) -> Pod {
    let mut answer =
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())
            .into_bytes();
    answer.extend_from_slice(body);
    pod("127.0.0.1", vec![answer], Duration::ZERO).await
}

fn reporter(port: u16, timeout: Duration) -> Reporter {
    let egress = Egress { loopback: true, deny: Vec::new() };
    Reporter::new(ReporterSettings { port, egress, timeout, ..ReporterSettings::default() }).unwrap()
}

async fn ask(pod: &Pod) -> Result<ProxyReport, ReportError> {
    reporter(pod.address.port(), Duration::from_secs(3)).ask(&pod.address.ip().to_string()).await
}

fn report() -> Value {
    json!({"version": "1.2.3", "proxies": [{"name": "p", "remote": {"reachable": true, "checked": "2026-01-01T00:00:00Z", "since": "2026-01-01T00:00:00Z", "reason": "Answered", "message": "", "status": 401}}]})
}

#[tokio::test]
async fn a_pod_is_asked_by_its_address() {
    for ip in ["127.0.0.1", "127.0.0.7", "::1"] {
        let body = report().to_string();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes();
        let pod = pod(ip, vec![answer], Duration::ZERO).await;
        let found = ask(&pod).await.unwrap();
        assert_eq!(found.version, "1.2.3");
        assert!(found.proxies[0].remote.as_ref().unwrap().reachable);
    }
}

#[tokio::test]
async fn an_address_where_no_pod_lives_is_never_called() {
    let reporter = Reporter::new(ReporterSettings::default()).unwrap();
    for ip in [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fd00:ec2::254",
        "fe80::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "255.255.255.255",
        "localhost",
        "kubernetes.default.svc",
        "10.0.0.1:80",
        "10.0.0.1/x",
        "user@10.0.0.1",
        "[::1]",
        "fe80::1%eth0",
        "",
        "\u{1b}[31m",
    ] {
        let error = reporter.ask(ip).await.unwrap_err();
        assert_eq!(error.kind(), ReportErrorKind::Address, "{ip}: {error}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
}

#[tokio::test]
async fn a_network_that_is_denied_is_never_called() {
    let egress = Egress { loopback: true, deny: vec!["127.0.0.0/8".parse().unwrap()] };
    let reporter = Reporter::new(ReporterSettings { egress, ..ReporterSettings::default() }).unwrap();
    assert_eq!(reporter.ask("127.0.0.1").await.unwrap_err().kind(), ReportErrorKind::Address);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = answering("200 OK", "", report().to_string().as_bytes()).await;
    let location = format!("Location: http://{}/status\r\n", target.address);
    let pod = answering("302 Found", &location, b"").await;
    assert_eq!(ask(&pod).await.unwrap_err().kind(), ReportErrorKind::Status(302));
    assert_eq!(target.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_is_too_large_is_not_read_to_its_end() {
    let mut large = report();
    large["padding"] = "x".repeat(1 << 20).into();
    let pod = answering("200 OK", "", large.to_string().as_bytes()).await;
    assert_eq!(ask(&pod).await.unwrap_err().kind(), ReportErrorKind::TooLarge);
    // The same without a length, in chunks.
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000)).into_bytes();
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let chunks = std::iter::once(head).chain(std::iter::repeat_n(chunk, 16)).collect();
    let pod = self::pod("127.0.0.1", chunks, Duration::ZERO).await;
    assert_eq!(ask(&pod).await.unwrap_err().kind(), ReportErrorKind::TooLarge);
}

#[tokio::test]
async fn a_pod_that_dawdles_takes_no_longer_than_the_time_it_has() {
    let drip: Vec<Vec<u8>> = std::iter::once(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n".to_vec())
        .chain(std::iter::repeat_n(b" ".to_vec(), 60_000))
        .collect();
    let silent = vec![Vec::new(), b"HTTP/1.1 200 OK\r\n\r\n".to_vec()];
    for (chunks, pause) in [(drip, 20), (silent, 60_000)] {
        let pod = pod("127.0.0.1", chunks, Duration::from_millis(pause)).await;
        let start = Instant::now();
        let error =
            reporter(pod.address.port(), Duration::from_millis(400)).ask("127.0.0.1").await.unwrap_err();
        assert_eq!(error.kind(), ReportErrorKind::TimedOut, "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(3));
    }
}

#[tokio::test]
async fn what_is_no_report_is_refused() {
    let ok = "200 OK";
    for (status, body, expected) in [
        (ok, &b""[..], ReportErrorKind::Unreadable),
        (ok, b"<html>", ReportErrorKind::Unreadable),
        (ok, b"\xff\xfe\x00", ReportErrorKind::Unreadable),
        (ok, b"[]", ReportErrorKind::Unreadable),
        (ok, b"{\"proxies\": [{\"suspended\": 5}]}", ReportErrorKind::Unreadable),
        (ok, b"{\"proxies\": []}", ReportErrorKind::Unreadable),
        ("404 Not Found", b"{}", ReportErrorKind::Status(404)),
        ("500 Oops", b"{}", ReportErrorKind::Status(500)),
        ("204 No Content", b"", ReportErrorKind::Status(204)),
    ] {
        let pod = answering(status, "", body).await;
        assert_eq!(ask(&pod).await.unwrap_err().kind(), expected, "{status}");
    }
    let deep = format!("{{\"x\": {}1{}}}", "[".repeat(20_000), "]".repeat(20_000));
    let pod = answering(ok, "", deep.as_bytes()).await;
    assert_eq!(ask(&pod).await.unwrap_err().kind(), ReportErrorKind::Unreadable);
}

#[tokio::test]
async fn nobody_there_and_nonsense_are_unreachable() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = gone.local_addr().unwrap().port();
    drop(gone);
    let error = reporter(port, Duration::from_secs(3)).ask("127.0.0.1").await.unwrap_err();
    assert_eq!(error.kind(), ReportErrorKind::Unreachable);
    let pod = pod("127.0.0.1", vec![b"SSH-2.0-x\r\n".to_vec()], Duration::ZERO).await;
    assert_eq!(ask(&pod).await.unwrap_err().kind(), ReportErrorKind::Unreachable);
}

#[tokio::test]
async fn control_characters_of_a_report_reach_nobody() {
    let body =
        json!({"version": "\u{1b}[2J1", "proxies": [{"suspended": "a\r\nb\u{0}\u{202e}c"}]}).to_string();
    let pod = answering("200 OK", "", body.as_bytes()).await;
    let found = ask(&pod).await.unwrap();
    assert_eq!(found.version, "[2J1");
    assert_eq!(found.proxies[0].suspended.as_deref(), Some("a  bc"));
}

#[test]
fn the_same_found_once_more_is_no_news() {
    let report = |change: &dyn Fn(&mut ProxyReport)| {
        let mut report: ProxyReport = serde_json::from_value(report()).unwrap();
        change(&mut report);
        PodReport::new("a", Ok(report))
    };
    let first = report(&|_| {});
    assert!(!first.differs(&report(&|report| {
        report.proxies[0].remote.as_mut().unwrap().checked = "2026-01-01T00:01:00Z".to_owned();
        report.proxies[0].config.reloads = 7;
    })));
    assert!(first.differs(&report(&|report| report.proxies[0].remote.as_mut().unwrap().reachable = false)));
    assert!(first.differs(&report(&|report| report.proxies[0].suspended = Some("x".to_owned()))));
    let failed = |text: &str| PodReport::new("a", Err(ReportError::NotAnAddress { text: text.to_owned() }));
    assert!(first.differs(&failed("x")));
    assert!(!failed("x").differs(&failed("y")));
}

#[test]
fn a_proxy_that_cannot_be_reached_is_told_the_same_whatever_the_network_does() {
    let failed = |kind| PodReport { pod: "a".to_owned(), said: Err(kind) };
    let (away, late) = (ReportErrorKind::Unreachable, ReportErrorKind::TimedOut);
    assert_eq!(away.to_string(), late.to_string());
    assert!(!failed(away).differs(&failed(late)));
    assert!(failed(away).differs(&failed(ReportErrorKind::Unreadable)));
}
