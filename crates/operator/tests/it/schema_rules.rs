//! The API server judges by the rules in the schema, and the planner by its own: they have to agree.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skep_api::crd::{Kind, Object};
use skep_api::problem::Problem;
use skep_api::yaml::{documents, single};
use skep_operator::plan::{Missing, World, plan_object};

use crate::api_server::{judge, rules};
use crate::manifests::{files, world};

/// What a row is about, its kind, whether it is taken, and its spec.
fn rows() -> Vec<(String, Kind, bool, Value)> {
    let text = include_str!("../admission.yaml");
    let rows = single(text).unwrap().value;
    rows.as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let text = |field: &str| row[field].as_str().unwrap();
            let taken = row["taken"].as_bool().unwrap();
            (text("row").to_owned(), text("kind").parse().unwrap(), taken, row["spec"].clone())
        })
        .collect()
}

/// Kind, spec and errors of the planner for every object of a text.
fn judged(text: &str) -> Vec<(Kind, Value, bool)> {
    let (_, world) = world(text, Missing::Refuse);
    documents(text)
        .unwrap_or_default()
        .into_iter()
        .flat_map(|document| match document.value["items"].as_array() {
            Some(items) => items.clone(),
            None => vec![document.value],
        })
        .filter_map(|value| {
            let object = Object::parse(&value).ok()?;
            let refused = plan_object(&object, &world).problems.iter().any(Problem::is_error);
            Some((object.kind, value["spec"].clone(), refused))
        })
        .collect()
}

#[test]
fn the_schema_takes_what_the_planner_takes() {
    let mut seen = 0;
    for file in files("good") {
        for (kind, spec, _) in judged(&std::fs::read_to_string(&file).unwrap()) {
            let found = judge(kind, &spec).refused;
            assert!(found.is_empty(), "{} {kind}: {found:?}", file.display());
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn what_the_schema_refuses_the_planner_refuses_too() {
    let mut seen = 0;
    for file in files("bad") {
        for (kind, spec, refused) in judged(&std::fs::read_to_string(&file).unwrap()) {
            let found = judge(kind, &spec).refused;
            if !found.is_empty() {
                assert!(refused, "{} {kind}: {found:?}", file.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 25, "{seen}");
}

/// The rows are ToolHive's own tests of its definitions, and more; files may not be all there is, so that a
/// reference is no error.
#[test]
fn the_schema_and_the_planner_agree_on_every_row() {
    let mut world = World::default();
    world.settings.missing = Missing::Warn;
    for (row, kind, taken, spec) in rows() {
        let found = judge(kind, &spec).refused;
        assert_eq!(found.is_empty(), taken, "{row}: the schema: {found:?}\n{spec}");
        let object = Object::parse(&json!({
            "apiVersion": kind.stored().api_version(),
            "kind": kind.as_str(),
            "metadata": {"name": "row"},
            "spec": spec,
        }))
        .unwrap();
        let planned = plan_object(&object, &world);
        let errors: Vec<&Problem> = planned.problems.iter().filter(|problem| problem.is_error()).collect();
        assert_eq!(errors.is_empty(), taken, "{row}: the planner: {errors:?}\n{spec}");
        let valid = planned.conditions.iter().find(|condition| condition.kind == "Valid");
        if let Some(valid) = valid.filter(|valid| valid.reason != "EnterpriseRequired") {
            let holds = valid.status == skep_api::condition::ConditionStatus::True;
            assert_eq!(holds, taken, "{row}: {valid:?}");
        }
    }
}

/// ToolHive takes it, so there are such objects, and a rule would keep their status from being written.
#[test]
fn a_remote_proxy_that_says_nothing_of_its_callers_is_the_planners_to_refuse() {
    let spec = json!({"remoteUrl": "https://mcp.example.com"});
    assert_eq!(judge(Kind::MCPRemoteProxy, &spec).refused, Vec::<String>::new());
}

#[test]
fn every_rule_holds_for_some_object_and_refuses_another() {
    let (mut held, mut refused) = (BTreeSet::new(), BTreeSet::new());
    let rows = rows().into_iter().map(|(_, kind, _, spec)| (kind, spec));
    let written = ["good", "bad"].into_iter().flat_map(files).flat_map(|file| {
        judged(&std::fs::read_to_string(file).unwrap()).into_iter().map(|(kind, spec, _)| (kind, spec))
    });
    for (kind, spec) in rows.chain(written) {
        for (rule, holds) in judge(kind, &spec).asked {
            let list = if holds { &mut held } else { &mut refused };
            list.insert(rule);
        }
    }
    let all: BTreeSet<String> = rules().into_iter().collect();
    let never = |seen: &BTreeSet<String>| all.difference(seen).cloned().collect::<Vec<_>>().join("\n");
    assert_eq!(never(&held), "", "these hold for no object");
    assert_eq!(never(&refused), "", "these refuse no object");
}
