//! The proxy with JWT, Cedar, audit and metrics against the backend alone, in one run: requests a second,
//! added latency, memory, start; and the same with an exchange of the caller's token.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use skep_benches::backend;
use skep_benches::load::{Call, latencies, percentile, throughput};
use skep_benches::process::ProxyProcess;
use skep_testkit::{FakeIdp, Reply, ScriptedServer, free_port};

const ROUNDS: usize = 5;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]
async fn main() -> anyhow::Result<()> {
    // `cargo test` runs benches with --test; there is nothing to check then.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    let backend = backend::start()?;
    let idp = FakeIdp::start().await;
    let port = free_port();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let proxy =
        ProxyProcess::start(&run_config(port, &format!("http://{backend}/mcp"), idp.issuer()), address)
            .await?;
    let idle = proxy.resident()?;

    let direct = Call { address: backend, authorization: None };
    let through = Call { address, authorization: Some(format!("Bearer {}", idp.token("alice", "bench"))) };
    let (mut ratios, mut of_direct, mut of_proxy) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let a = throughput(&direct, 16, Duration::from_secs(2)).await?;
        let b = throughput(&through, 16, Duration::from_secs(2)).await?;
        ratios.push(b / a);
        of_direct.push(a);
        of_proxy.push(b);
    }
    println!(
        "requests/s, 16 connections: direct {:.0}, through skep {:.0}, ratio {:.2} (median of {ROUNDS})",
        median(&mut of_direct),
        median(&mut of_proxy),
        median(&mut ratios)
    );
    let a = latencies(&direct, 500, 5000).await?;
    let b = latencies(&through, 500, 5000).await?;
    for share in [0.5, 0.99] {
        let (a, b) = (percentile(&a, share), percentile(&b, share));
        println!(
            "latency p{:.0} at 500/s: direct {a:?}, through skep {b:?}, added {:?}",
            share * 100.0,
            b.saturating_sub(a)
        );
    }
    println!("resident memory: idle {idle:.1} MiB, after the load {:.1} MiB", proxy.resident()?);
    println!("start to ready: {:?}", proxy.start_to_ready);
    exchange(&direct, &through, &format!("http://{backend}/mcp"), &idp).await
}

/// Two proxies, with an exchange and without, in turns.
#[expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]
async fn exchange(direct: &Call, without: &Call, target: &str, idp: &FakeIdp) -> anyhow::Result<()> {
    let endpoint = ScriptedServer::start(|_| Reply::body(200, "application/json", TOKEN_ANSWER)).await;
    let port = free_port();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut config = run_config(port, target, idp.issuer());
    let exchange = json!({
        "token_url": endpoint.url("/token"), "client_id": "bench", "audience": "https://backend.example",
    });
    config.as_object_mut().context("an object")?.insert("token_exchange_config".to_owned(), exchange);
    let proxy = ProxyProcess::start(&config, address).await?;
    let with = Call { address, authorization: without.authorization.clone() };

    let calls = [("direct", direct), ("without an exchange", without), ("with one", &with)];
    let mut of = calls.map(|(name, call)| (name, call, Vec::new(), Vec::new()));
    for _ in 0..ROUNDS {
        for (_, call, rates, times) in &mut of {
            rates.push(throughput(call, 16, Duration::from_secs(1)).await?);
            times.extend(latencies(call, 500, 2000).await?);
        }
    }
    let asked = endpoint.requests().len();
    anyhow::ensure!(asked == 1, "one caller, one exchange, but {asked} were made");
    println!("\ntoken exchange on and off, {ROUNDS} rounds in turns; one exchange was made for all calls");
    println!("{:<20} {:>10} {:>12} {:>12}", "", "calls/s", "p50", "p99");
    let mut of_without = None;
    for (name, _, rates, times) in &mut of {
        times.sort();
        let (rate, p50, p99) = (median(rates), percentile(times, 0.5), percentile(times, 0.99));
        println!("{name:<20} {rate:>10.0} {p50:>12?} {p99:>12?}");
        match (*name, of_without) {
            ("without an exchange", _) => of_without = Some((rate, p50, p99)),
            (_, Some((rate_0, p50_0, p99_0))) => println!(
                "{:<20} {:>10.2} {:>12.2} {:>12.2}",
                "ratio, on to off",
                rate / rate_0,
                p50.as_secs_f64() / p50_0.as_secs_f64(),
                p99.as_secs_f64() / p99_0.as_secs_f64()
            ),
            _ => {}
        }
    }
    println!("resident memory with an exchange, after the load: {:.1} MiB", proxy.resident()?);
    Ok(())
}

const TOKEN_ANSWER: &str = r#"{"access_token":"header.payload.signature","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3600}"#;

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn run_config(port: u16, target: &str, issuer: &str) -> Value {
    let policies = [
        r#"permit(principal, action == Action::"call_tool", resource == Tool::"weather");"#,
        r#"forbid(principal, action == Action::"call_tool", resource == Tool::"delete_everything");"#,
        r#"permit(principal in THVGroup::"admins", action, resource);"#,
    ];
    json!({
        "schema_version": "v0.1.0", "name": "bench", "transport": "streamable-http",
        "remote_url": target, "host": "127.0.0.1", "port": port,
        "oidc_config": {"Issuer": issuer, "Audience": "bench", "InsecureAllowHTTP": true},
        "authz_config": {"version": "1.0", "type": "cedarv1", "cedar": {"policies": policies, "entities_json": "[]"}},
        "audit_config": {"detectApplicationErrors": true, "maxDataSize": 1024},
        "telemetry_config": {"prometheusPort": free_port(), "enablePrometheusMetricsPath": true},
    })
}
