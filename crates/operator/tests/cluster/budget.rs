//! How much the operator writes.

use std::collections::BTreeMap;

use serde_json::json;

use crate::harness::{Cluster, Operator};
use crate::remote_proxy::open_proxy;

/// Proxies in the count; the budget is about 1,000, and is the same for each.
const PROXIES: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_proxies_cost_their_objects_and_one_status_each_and_an_idle_minute_costs_nothing() {
    let Some(cluster) = Cluster::new().await else { return };
    let mut made = Vec::new();
    for index in 0..PROXIES {
        made.push(cluster.apply(open_proxy(&cluster, &format!("p{index}"))));
        if made.len() == 20 {
            futures_util::future::join_all(made.drain(..)).await;
        }
    }
    futures_util::future::join_all(made).await;

    let started = std::time::Instant::now();
    let operator = Operator::start(&cluster).await;
    for index in 0..PROXIES {
        cluster.condition("MCPRemoteProxy", &format!("p{index}"), "ConfigurationValid", "True", "").await;
    }
    operator.settled().await;
    let took = started.elapsed();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for call in operator.writes() {
        *counts.entry(call.rule_resource()).or_default() += 1;
    }
    eprintln!("{PROXIES} proxies in {took:?}: {counts:?}");
    let events = counts.remove("events").unwrap_or_default();
    assert!(events <= PROXIES, "{events} events");
    let objects = ["configmaps", "deployments", "rolebindings", "roles", "serviceaccounts", "services"];
    let expected: BTreeMap<String, usize> = objects
        .into_iter()
        .chain(["mcpremoteproxies/status"])
        .map(|resource| (resource.to_owned(), PROXIES))
        .collect();
    assert_eq!(counts, expected);

    // The metrics tell the same.
    let metrics = operator.registry.encode();
    for expected in [
        format!("skep_operator_objects_total{{kind=\"Deployment\",action=\"created\"}} {PROXIES}"),
        format!("skep_operator_custom_resources{{kind=\"MCPRemoteProxy\"}} {PROXIES}"),
        format!("skep_anonymous_workloads{{kind=\"MCPRemoteProxy\"}} {PROXIES}"),
    ] {
        assert!(metrics.contains(&expected), "{expected} is not in\n{metrics}");
    }

    // Nothing is written while nothing happens, and nothing when all of it is looked at again.
    operator.recorder.clear();
    operator.reconciles();
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(operator.writes(), []);
    operator.stop().await;
    let again = Operator::start(&cluster).await;
    again.settled().await;
    assert_eq!(again.reconciles().len(), PROXIES);
    assert_eq!(again.writes(), []);

    // What does not concern them does not move them.
    cluster
        .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other", "namespace": cluster.namespace}, "data": {"a": "b"}}))
        .await;
    again.settled().await;
    assert_eq!(again.reconciles(), BTreeMap::new());
}
