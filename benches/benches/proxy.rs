//! The proxy with JWT, Cedar, audit and metrics against the backend alone, in one run: requests a second,
//! added latency, memory, start.

use std::time::Duration;

use serde_json::{Value, json};
use skep_benches::backend;
use skep_benches::load::{Call, latencies, percentile, throughput};
use skep_benches::process::ProxyProcess;
use skep_testkit::{FakeIdp, free_port};

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
    Ok(())
}

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
