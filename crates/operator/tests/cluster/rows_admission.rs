//! ToolHive's tests of its definitions, on a real API server. One that knows no rules (CEL) takes what only a
//! rule refuses; then the operator has to refuse it.

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use skep_api::yaml::single;

use crate::harness::{Cluster, Operator, found};
use crate::rows_objects::{ours, secret, try_create};

/// A word of the status that says that an object is not as it should be.
fn refused(object: &Value) -> bool {
    let says_no = |condition: &str| found(object, condition).is_some_and(|found| found["status"] == "False");
    object["status"]["phase"] == "Failed" || says_no("Valid")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_rule_refuses_at_the_door_the_operator_refuses() {
    let Some(cluster) = Cluster::new().await else { return };
    cluster.apply(secret(&cluster, "s", "k", "x")).await;
    cluster.apply(ours(&cluster, "MCPGroup", "g", json!({}))).await;
    let _operator = Operator::start(&cluster).await;
    let rows = single(include_str!("../admission.yaml")).unwrap().value;
    let trials = rows.as_array().unwrap().iter().enumerate().map(|(index, case)| {
        let cluster = &cluster;
        async move {
            let text = |field: &str| case[field].as_str().unwrap();
            let (row, kind, taken) = (text("row"), text("kind"), case["taken"] == true);
            let name = format!("row-{index}");
            let (code, answer) = try_create(cluster, &ours(cluster, kind, &name, case["spec"].clone())).await;
            if code == 422 {
                assert!(!taken, "{row}: {answer}");
                return (0, 1);
            }
            assert_eq!(code, 201, "{row}: {answer}");
            let object =
                cluster.until(kind, &name, |object| object["status"]["observedGeneration"] == 1).await;
            if taken {
                // What it refers to need not be there; then it is that, and nothing else, that it lacks.
                let lacks = object["status"].to_string();
                assert!(
                    !refused(&object)
                        || lacks.contains("NotFound")
                        || lacks.contains("EnterpriseRequired")
                        || lacks.contains("does not exist"),
                    "{row}: {lacks}"
                );
            } else {
                assert!(refused(&object), "{row}: {}", object["status"]);
            }
            (usize::from(!taken), 0)
        }
    });
    let (by_us, at_the_door) = futures_util::stream::iter(trials)
        .buffer_unordered(8)
        .fold((0, 0), |(a, b), (c, d)| async move { (a + c, b + d) })
        .await;
    assert!(
        by_us + at_the_door > 90 && at_the_door > 20,
        "{by_us} by the operator, {at_the_door} at the door"
    );
}
