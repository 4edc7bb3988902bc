//! MCPGroup and its members.

use serde_json::{Value, json};

use crate::harness::{Cluster, Operator, Options, found};
use crate::rows_objects::{event, judged, ours, proxy, server, with};

fn member(object: Value, group: &str) -> Value {
    with(object, json!({"groupRef": {"name": group}}))
}

fn entry(cluster: &Cluster, name: &str, group: &str) -> Value {
    let spec =
        json!({"remoteUrl": "https://mcp.example.com/", "transport": "sse", "groupRef": {"name": group}});
    ours(cluster, "MCPServerEntry", name, spec)
}

async fn group(cluster: &Cluster, name: &str, servers: Value, proxies: Value, entries: Value) -> Value {
    cluster
        .until("MCPGroup", name, |group| {
            let status = &group["status"];
            let listed = |list: &str, count: &str, wanted: &Value| {
                let empty = wanted.as_array().unwrap().is_empty();
                (status[list] == *wanted || (empty && status[list].is_null()))
                    && status[count] == wanted.as_array().unwrap().len()
            };
            listed("servers", "serverCount", &servers)
                && listed("remoteProxies", "remoteProxyCount", &proxies)
                && listed("entries", "entryCount", &entries)
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_finds_those_who_were_there_and_those_who_come() {
    let Some(cluster) = Cluster::new().await else { return };
    cluster.apply(member(server(&cluster, "early"), "g")).await;
    cluster.apply(server(&cluster, "outside")).await;
    cluster.apply(member(server(&cluster, "elsewhere"), "other")).await;
    let _operator = Operator::start(&cluster).await;
    // A member knows that it has no group yet, and runs all the same.
    let early =
        cluster.condition("MCPServer", "early", "GroupRefValidated", "False", "GroupRefNotFound").await;
    assert_eq!(early["status"]["phase"], "Pending");
    cluster.until("Deployment", "early", |_| true).await;

    cluster.apply(ours(&cluster, "MCPGroup", "g", json!({"description": "some"}))).await;
    let ready = group(&cluster, "g", json!(["early"]), json!([]), json!([])).await;
    assert_eq!(ready["status"]["phase"], "Ready");
    assert_eq!(ready["status"]["observedGeneration"], 1);
    assert_eq!(found(&ready, "MCPServersChecked").unwrap()["reason"], "ListMCPServersCheckSucceeded");
    assert_eq!(found(&ready, "Ready").unwrap()["status"], "True");
    assert_eq!(ready["metadata"]["finalizers"], json!(["toolhive.stacklok.dev/mcpgroup-finalizer"]));
    cluster.condition("MCPServer", "early", "GroupRefValidated", "True", "GroupRefIsValid").await;

    cluster.apply(member(server(&cluster, "late"), "g")).await;
    cluster.apply(member(proxy(&cluster, "far"), "g")).await;
    cluster.apply(entry(&cluster, "listed", "g")).await;
    group(&cluster, "g", json!(["early", "late"]), json!(["far"]), json!(["listed"])).await;
    // It is said in the proxy's configuration too.
    let far = cluster.until("ConfigMap", "far-runconfig", |_| true).await;
    assert_eq!(crate::rows_objects::run_config_in(&far)["group"], "g");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_stays_ready_when_members_go_or_fail() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(ours(&cluster, "MCPGroup", "g", json!({}))).await;
    let empty = group(&cluster, "g", json!([]), json!([]), json!([])).await;
    assert_eq!(empty["status"]["phase"], "Ready", "a group without members is one");
    for name in ["a", "b"] {
        cluster.apply(member(server(&cluster, name), "g")).await;
    }
    group(&cluster, "g", json!(["a", "b"]), json!([]), json!([])).await;
    operator.settled().await;
    let since =
        found(&cluster.get("MCPGroup", "g").await.unwrap(), "Ready").unwrap()["lastTransitionTime"].clone();

    cluster.merge("MCPServer", "a", json!({"spec": {"endpointPrefix": "no-slash"}})).await;
    cluster.until("MCPServer", "a", |object| object["status"]["phase"] == "Failed").await;
    cluster.delete("MCPServer", "b").await;
    let left = group(&cluster, "g", json!(["a"]), json!([]), json!([])).await;
    assert_eq!(left["status"]["phase"], "Ready");
    assert_eq!(found(&left, "Ready").unwrap()["lastTransitionTime"], since, "it never was anything else");
    // One leaves.
    cluster.merge("MCPServer", "a", json!({"spec": {"groupRef": null}})).await;
    group(&cluster, "g", json!([]), json!([]), json!([])).await;
    cluster.until("MCPServer", "a", |object| found(object, "GroupRefValidated").is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_has_members_of_its_own_namespace_only() {
    let (Some(here), Some(there)) = (Cluster::new().await, Cluster::new().await) else { return };
    let options = Options { more_namespaces: vec![there.namespace.clone()], ..Options::default() };
    let operator = Operator::with(&here, options).await;
    for cluster in [&here, &there] {
        cluster.apply(ours(cluster, "MCPGroup", "g", json!({}))).await;
    }
    here.apply(member(server(&here, "mine"), "g")).await;
    there.apply(member(server(&there, "theirs"), "g")).await;
    group(&here, "g", json!(["mine"]), json!([]), json!([])).await;
    group(&there, "g", json!(["theirs"]), json!([]), json!([])).await;
    // A group of another namespace is none.
    there.apply(ours(&there, "MCPGroup", "only-there", json!({}))).await;
    here.merge("MCPServer", "mine", json!({"spec": {"groupRef": {"name": "only-there"}}})).await;
    here.condition("MCPServer", "mine", "GroupRefValidated", "False", "GroupRefNotFound").await;
    operator.settled().await;
    group(&there, "only-there", json!([]), json!([]), json!([])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_not_there_is_no_obstacle() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    for (kind, object) in [("MCPServer", server(&cluster, "s")), ("MCPRemoteProxy", proxy(&cluster, "p"))] {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        cluster.apply(object).await;
        assert!(found(&judged(&cluster, kind, &name).await, "GroupRefValidated").is_none(), "nobody asked");
        cluster.merge(kind, &name, json!({"spec": {"groupRef": {"name": "gone"}}})).await;
        let object = cluster.condition(kind, &name, "GroupRefValidated", "False", "GroupRefNotFound").await;
        assert_eq!(object["status"]["phase"], "Pending");
        assert_eq!(event(&cluster, &name, "GroupRefNotFound").await["type"], "Warning");
        cluster.until("Deployment", &name, |_| true).await;
    }
    // The group comes later, and everybody hears of it.
    cluster.apply(ours(&cluster, "MCPGroup", "gone", json!({}))).await;
    cluster.condition("MCPServer", "s", "GroupRefValidated", "True", "GroupRefIsValid").await;
    cluster.condition("MCPRemoteProxy", "p", "GroupRefValidated", "True", "GroupRefIsValid").await;
    // A group that can't be read is not ready.
    cluster.merge("MCPServer", "s", json!({"spec": {"groupRef": {"name": "gone"}}})).await;
    group(&cluster, "gone", json!(["s"]), json!(["p"]), json!([])).await;
}
