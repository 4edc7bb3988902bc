use std::collections::BTreeMap;

use serde_json::json;
use skep_api::runconfig::{CedarConfig, ToolOverride};

use super::*;
use crate::cedar::Numbers;

fn id(text: &str) -> Id {
    Id::read(serde_json::from_str(text).unwrap()).unwrap()
}

fn filter(policies: &[&str], rules: ToolRules, request: Option<(&str, Option<ListKind>)>) -> ListFilter {
    let config = CedarConfig {
        policies: policies.iter().map(|text| (*text).to_owned()).collect(),
        ..CedarConfig::default()
    };
    let who = Identity::of("i", "alice");
    ListFilter {
        policies: (!policies.is_empty())
            .then(|| (Arc::new(Policies::load(&config, "s", Numbers::Integers).unwrap()), Arc::new(who))),
        tools: Arc::new(rules),
        annotations: Arc::default(),
        request: request.map(|(text, list)| (id(text), list)),
    }
}

fn tool_rules(shown: &[&str], overrides: &[(&str, ToolOverride)]) -> ToolRules {
    let shown: Vec<_> = shown.iter().map(|name| (*name).to_owned()).collect();
    let overrides: BTreeMap<_, _> =
        overrides.iter().map(|(name, given)| ((*name).to_owned(), given.clone())).collect();
    ToolRules::new(&shown, &overrides).unwrap()
}

fn replaced(filter: &ListFilter, text: &str) -> String {
    match filter.message(text.as_bytes()).unwrap() {
        Filtered::Replaced(text) => text,
        Filtered::Unchanged => panic!("unchanged"),
    }
}

const ONLY_ADD: &str = r#"permit(principal, action == Action::"call_tool", resource == Tool::"add");"#;

#[test]
fn a_list_keeps_what_policies_allow_and_every_byte_of_it() {
    let filter = filter(&[ONLY_ADD], ToolRules::default(), Some(("1", Some(ListKind::Tools))));
    let text = r#"{"jsonrpc":"2.0", "id":1,"result":{"x":1.50,"tools":[{"name":"drop"},{"name":"add", "big":12345678901234567890, "annotations":{"readOnlyHint":true}}],"nextCursor":"c"}}"#;
    assert_eq!(
        replaced(&filter, text),
        r#"{"jsonrpc":"2.0","id":1,"result":{"x":1.50,"tools":[{"name":"add", "big":12345678901234567890, "annotations":{"readOnlyHint":true}}],"nextCursor":"c"}}"#
    );
    assert_eq!(filter.annotations.of("add").unwrap().read_only_hint, Some(true));
    let all = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"add"}]}}"#;
    assert_eq!(filter.message(all.as_bytes()).unwrap(), Filtered::Unchanged);
}

#[test]
fn overrides_change_what_is_shown() {
    let given = ToolOverride {
        name: "sum".to_owned(),
        description: "Sums \"two\"".to_owned(),
        annotations: ToolAnnotations { title: Some("Sum".to_owned()), ..ToolAnnotations::default() },
    };
    let rules = tool_rules(&["sum", "echo"], &[("add", given)]);
    let filter = filter(&[], rules, Some(("\"a\"", Some(ListKind::Tools))));
    let text = r#"{"jsonrpc":"2.0","id":"a","result":{"tools":[{"name":"add","n":1.0,"annotations":{"readOnlyHint":true}},{"name":"echo"},{"name":"rm"}]}}"#;
    assert_eq!(
        replaced(&filter, text),
        r#"{"jsonrpc":"2.0","id":"a","result":{"tools":[{"name":"sum","n":1.0,"annotations":{"readOnlyHint":true,"title":"Sum"},"description":"Sums \"two\""},{"name":"echo"}]}}"#
    );
}

#[test]
fn prompts_resources_and_templates_are_filtered_too() {
    let policies = [
        r#"permit(principal, action == Action::"get_prompt", resource == Prompt::"a");"#,
        r#"permit(principal, action == Action::"read_resource", resource == Resource::"x:a");"#,
    ];
    for (kind, key) in
        [(ListKind::Prompts, "a"), (ListKind::Resources, "x:a"), (ListKind::ResourceTemplates, "x:a")]
    {
        let filter = filter(&policies, ToolRules::default(), Some(("1", Some(kind))));
        let item = |name: &str| json!({kind.key(): name});
        let text = json!({"jsonrpc": "2.0", "id": 1, "result": {kind.member(): [item("b"), item(key)]}});
        let answer: Value = serde_json::from_str(&replaced(&filter, &text.to_string())).unwrap();
        assert_eq!(answer["result"][kind.member()], json!([item(key)]));
    }
}

#[test]
fn a_list_that_cannot_be_read_is_not_passed_on() {
    let filter = filter(&[ONLY_ADD], ToolRules::default(), Some(("1", Some(ListKind::Tools))));
    for (text, expected) in [
        (r#"{"jsonrpc":"2.0","id":1,"result":{"tools":{"name":"x"}}}"#, Unfilterable::NoItems),
        (r#"{"jsonrpc":"2.0","id":1,"result":{"Tools":[]}}"#, Unfilterable::NoItems),
        (r#"{"jsonrpc":"2.0","id":1,"result":[]}"#, Unfilterable::NoItems),
        (r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"title":"x"}]}}"#, Unfilterable::NoName),
        (r#"{"jsonrpc":"2.0","id":1,"result":{"tools":["x"]}}"#, Unfilterable::NoName),
        (r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"add","Name":"x"}]}}"#, Unfilterable::NoName),
        (r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]},"result":{}}"#, Unfilterable::Json),
        (r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]},"Result":{}}"#, Unfilterable::Json),
        ("\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[]}}", Unfilterable::Json),
        (r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}{"jsonrpc":"2.0"}"#, Unfilterable::Json),
    ] {
        assert_eq!(filter.message(text.as_bytes()), Err(expected), "{text}");
    }
}

#[test]
fn only_lists_are_filtered() {
    let call = filter(&[ONLY_ADD], ToolRules::default(), Some(("1", None)));
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"tools":[{"name":"in a tool's own result"}]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"structuredContent":{"tools":[{"name":"x"}]},"content":[]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"tools":[{"name":"x"}]}}"#,
        r#"{"jsonrpc":"2.0","id":9,"method":"sampling/createMessage","params":{}}"#,
        r#""text""#,
    ] {
        assert_eq!(call.message(text.as_bytes()), Ok(Filtered::Unchanged), "{text}");
    }
}

#[test]
fn a_list_under_the_id_of_a_call_is_filtered_all_the_same() {
    let text = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"rm"}]}}"#;
    let call = filter(&[ONLY_ADD], ToolRules::default(), Some(("1", None)));
    assert_eq!(replaced(&call, text), r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}"#);
}

#[test]
fn lists_for_other_requests_are_told_by_their_shape() {
    let text = r#"{"jsonrpc":"2.0","id":2,"result":{"tools":[{"name":"rm"}]}}"#;
    let expected = r#"{"jsonrpc":"2.0","id":2,"result":{"tools":[]}}"#;
    for request in [None, Some(("1", None)), Some(("1", Some(ListKind::Prompts)))] {
        assert_eq!(replaced(&filter(&[ONLY_ADD], ToolRules::default(), request), text), expected);
    }
    let batch = format!("[{text},{{\"jsonrpc\":\"2.0\",\"id\":3,\"result\":{{}}}}]");
    assert_eq!(
        replaced(&filter(&[ONLY_ADD], ToolRules::default(), None), &batch),
        format!("[{expected},{{\"jsonrpc\":\"2.0\",\"id\":3,\"result\":{{}}}}]")
    );
}

#[test]
fn a_filtered_list_is_private() {
    let filter = filter(&[ONLY_ADD], ToolRules::default(), Some(("1", Some(ListKind::Tools))));
    let text =
        r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"add"}],"ttlMs":5,"cacheScope":"public"}}"#;
    assert_eq!(replaced(&filter, text), text.replace("public", "private"));
}
