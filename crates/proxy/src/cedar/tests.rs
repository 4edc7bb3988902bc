use serde_json::json;

use super::*;

fn who(subject: &str, claims: Value) -> Arc<Identity> {
    let Value::Object(mut claims) = claims else { panic!("claims are an object") };
    claims.insert("sub".to_owned(), json!(subject));
    Arc::new(Identity { claims, ..Identity::of("https://idp.example", subject) })
}

fn load(policies: &[&str]) -> Policies {
    let config = CedarConfig {
        policies: policies.iter().map(|text| (*text).to_owned()).collect(),
        ..CedarConfig::default()
    };
    Policies::load(&config, "github", Numbers::Integers).unwrap()
}

fn call<'a>(name: &'a str, arguments: &'a Value) -> Action<'a> {
    Action::CallTool { name, arguments, annotations: None }
}

#[test]
fn the_entity_model_is_toolhives() {
    let alice = who(
        "alice",
        json!({"email": "a@x", "groups": ["admins", "eng"], "level": 3, "act": {"sub": "agent"}, "scope": "a b"}),
    );
    let read_only = ToolAnnotations { read_only_hint: Some(true), ..ToolAnnotations::default() };
    let arguments = json!({"n": 5, "ratio": 0.5, "deep": {"x": 1}, "s": "t"});
    for (policy, expected) in [
        (
            r#"permit(principal == Client::"alice", action == Action::"call_tool", resource == Tool::"x");"#,
            true,
        ),
        (r#"permit(principal == Client::"bob", action, resource);"#, false),
        (r#"permit(principal in THVGroup::"admins", action, resource);"#, true),
        (r#"permit(principal in THVGroup::"other", action, resource);"#, false),
        (r#"permit(principal, action, resource in MCP::"github");"#, true),
        (r#"permit(principal, action, resource in MCP::"gitlab");"#, false),
        (r#"permit(principal, action, resource is Tool);"#, true),
        (r#"permit(principal, action, resource is Prompt);"#, false),
        (r#"permit(principal, action in [Action::"get_prompt", Action::"call_tool"], resource);"#, true),
        (r#"permit(principal, action == Action::"get_prompt", resource);"#, false),
        (r#"permit(principal, action, resource) when { principal.claim_email == "a@x" };"#, true),
        (r#"permit(principal, action, resource) when { context.claim_email == "a@x" };"#, true),
        (r#"permit(principal, action, resource) when { context.claim_groups.contains("eng") };"#, true),
        (r#"permit(principal, action, resource) when { context.claim_level >= 3 };"#, true),
        (r#"permit(principal, action, resource) when { context.claim_level > 3 };"#, false),
        (r#"permit(principal, action, resource) when { context.claim_act.sub == "agent" };"#, true),
        (r#"permit(principal, action, resource) when { context.arg_n == 5 };"#, true),
        (r#"permit(principal, action, resource) when { resource.arg_s == "t" };"#, true),
        (r#"permit(principal, action, resource) when { context.arg_ratio.lessThan(decimal("0.6")) };"#, true),
        (r#"permit(principal, action, resource) when { context.arg_deep_present };"#, true),
        (r#"permit(principal, action, resource) when { resource.readOnlyHint };"#, true),
        (r#"permit(principal, action, resource) when { resource.destructiveHint };"#, false),
        (
            r#"permit(principal, action, resource) when { resource.name == "x" && resource.feature == "tool" };"#,
            true,
        ),
    ] {
        let action = Action::CallTool { name: "x", arguments: &arguments, annotations: Some(&read_only) };
        assert_eq!(load(&[policy]).decide(&alice, action).allowed, expected, "{policy}");
    }
}

#[test]
fn forbid_wins_and_any_error_denies() {
    let permit = "permit(principal, action, resource);";
    let alice = who("alice", json!({}));
    let none = json!({});
    let verdict = load(&[permit]).decide(&alice, call("x", &none));
    assert_eq!((verdict.allowed, verdict.policies), (true, vec!["policy0".to_owned()]));
    let forbidden = load(&[permit, r#"forbid(principal, action, resource == Tool::"x");"#]);
    let verdict = forbidden.decide(&alice, call("x", &none));
    assert_eq!((verdict.allowed, verdict.policies), (false, vec!["policy1".to_owned()]));
    assert!(forbidden.decide(&alice, call("y", &none)).allowed);
    let failing = load(&[permit, r#"forbid(principal, action, resource) when { context.claim_level > 3 };"#]);
    let verdict = failing.decide(&alice, call("x", &none));
    assert!(!verdict.allowed);
    assert_eq!(verdict.errors.len(), 1);
    // The error of a policy on another resource is not this call's.
    let elsewhere = load(&[
        permit,
        r#"permit(principal, action, resource == Tool::"y") when { context.claim_level > 3 };"#,
    ]);
    assert!(elsewhere.decide(&alice, call("x", &none)).allowed);
    assert!(!elsewhere.decide(&alice, call("y", &none)).allowed);
}

#[test]
fn numbers_can_be_decimals_as_in_toolhive() {
    let config = CedarConfig {
        policies: vec![
            r#"permit(principal, action, resource) when { context.arg_n.lessThan(decimal("6.0")) };"#
                .to_owned(),
        ],
        ..CedarConfig::default()
    };
    let arguments = json!({"n": 5});
    let alice = who("alice", json!({}));
    let decimals = Policies::load(&config, "s", Numbers::Decimals).unwrap();
    assert!(decimals.decide(&alice, call("x", &arguments)).allowed);
    let integers = Policies::load(&config, "s", Numbers::Integers).unwrap();
    assert!(!integers.decide(&alice, call("x", &arguments)).allowed);
}

#[test]
fn groups_come_from_the_claim_that_is_named() {
    let config = CedarConfig {
        policies: vec![r#"permit(principal in Team::"ops", action, resource);"#.to_owned()],
        group_claim_name: "realm_access.teams".to_owned(),
        role_claim_name: "job".to_owned(),
        group_entity_type: "Team".to_owned(),
        ..CedarConfig::default()
    };
    let policies = Policies::load(&config, "s", Numbers::Integers).unwrap();
    let none = json!({});
    for (claims, expected) in [
        (json!({"realm_access": {"teams": ["ops"]}}), true),
        (json!({"realm_access.teams": ["ops"]}), true),
        (json!({"job": "ops"}), true),
        (json!({"groups": ["ops"]}), false),
        (json!({"realm_access": {"teams": {"ops": true}}}), false),
    ] {
        assert_eq!(
            policies.decide(&who("a", claims.clone()), call("x", &none)).allowed,
            expected,
            "{claims}"
        );
    }
}

#[test]
fn given_entities_add_to_what_the_token_says() {
    let config = CedarConfig {
        policies: vec![
            r#"permit(principal in THVGroup::"staff", action, resource) when { principal.clearance == "high" && resource.owner == "alice" };"#.to_owned(),
        ],
        entities_json: json!([
            {"uid": {"type": "Client", "id": "alice"}, "attrs": {"clearance": "high"}, "parents": []},
            {"uid": {"type": "THVGroup", "id": "admins"}, "attrs": {}, "parents": [{"type": "THVGroup", "id": "staff"}]},
            {"uid": {"type": "Tool", "id": "x"}, "attrs": {"owner": "alice"}, "parents": []}
        ])
        .to_string(),
        ..CedarConfig::default()
    };
    let policies = Policies::load(&config, "s", Numbers::Integers).unwrap();
    let none = json!({});
    let alice = who("alice", json!({"groups": ["admins"]}));
    assert!(policies.decide(&alice, call("x", &none)).allowed);
    assert!(!policies.decide(&alice, call("y", &none)).allowed);
    assert!(!policies.decide(&who("bob", json!({"groups": ["admins"]})), call("x", &none)).allowed);
}

#[test]
fn actions_in_groups_are_not_divided() {
    let config = CedarConfig {
        policies: vec![r#"permit(principal, action in [Action::"everything"], resource);"#.to_owned()],
        entities_json: json!([
            {"uid": {"type": "Action", "id": "call_tool"}, "attrs": {}, "parents": [{"type": "Action", "id": "everything"}]},
            {"uid": {"type": "Action", "id": "everything"}, "attrs": {}, "parents": []}
        ])
        .to_string(),
        ..CedarConfig::default()
    };
    let policies = Policies::load(&config, "s", Numbers::Integers).unwrap();
    let none = json!({});
    assert!(policies.decide(&who("a", json!({})), call("x", &none)).allowed);
}

#[test]
fn names_cannot_break_out_of_their_entity() {
    let policies = load(&[r#"permit(principal == Client::"a", action, resource);"#]);
    let none = json!({});
    for subject in ["a\", action, resource) ; permit(principal == Client::\"a", "a\"", "A", "a "] {
        assert!(!policies.decide(&who(subject, json!({})), call("x", &none)).allowed, "{subject}");
    }
}

#[test]
fn a_list_is_judged_like_the_calls_themselves() {
    let policies = load(&[
        r#"permit(principal, action == Action::"call_tool", resource == Tool::"a");"#,
        r#"permit(principal, action == Action::"call_tool", resource) when { resource.readOnlyHint };"#,
    ]);
    let read_only = ToolAnnotations { read_only_hint: Some(true), ..ToolAnnotations::default() };
    let none = Value::Null;
    let action = |name, annotations| Action::CallTool { name, arguments: &none, annotations };
    let alice = who("alice", json!({}));
    assert_eq!(
        policies.allowed(
            &alice,
            &[action("a", Some(&read_only)), action("b", Some(&read_only)), action("b", None)]
        ),
        [true, true, true]
    );
    assert_eq!(policies.allowed(&alice, &[action("c", None)]), [false]);
}

#[test]
fn policies_that_cannot_be_used_are_named_with_their_place() {
    let load = |policies: &[&str], entities: &str, group: &str| {
        let config = CedarConfig {
            policies: policies.iter().map(|text| (*text).to_owned()).collect(),
            entities_json: entities.to_owned(),
            group_entity_type: group.to_owned(),
            ..CedarConfig::default()
        };
        Policies::load(&config, "s", Numbers::Integers).unwrap_err().to_string()
    };
    let fine = "permit(principal, action, resource);";
    let syntax = load(&[fine, "permit(principal,\n  action resource);"], "", "");
    assert!(syntax.starts_with("policy 1 cannot be parsed") && syntax.contains("line 2"), "{syntax}");
    assert!(load(&["permit(principal == ?principal, action, resource);"], "", "").contains("template"));
    assert!(load(&[fine], "[7]", "").contains("entities_json"));
    assert!(load(&[fine], "", "not a type").contains("group_entity_type"));
    assert!(load(&[], "", "").contains("no policy"));
}

#[test]
fn several_policies_in_one_string_all_count() {
    let policies =
        load(&[r#"permit(principal, action, resource); forbid(principal, action, resource == Tool::"x");"#]);
    let none = json!({});
    let alice = who("alice", json!({}));
    assert_eq!(policies.len(), 2);
    assert!(!policies.decide(&alice, call("x", &none)).allowed);
    assert!(policies.decide(&alice, call("y", &none)).allowed);
}

#[test]
fn a_policy_that_asks_for_annotations_denies_a_tool_that_no_list_has_shown() {
    let none = json!({});
    let alice = who("alice", json!({}));
    let shown = ToolAnnotations::default();
    let with = |annotations| Action::CallTool { name: "x", arguments: &none, annotations };
    for policies in [
        [
            "permit(principal, action, resource) when { !(resource has destructiveHint && resource.destructiveHint) };",
            "",
        ],
        [
            "permit(principal, action, resource);",
            "forbid(principal, action, resource) when { resource has destructiveHint && resource.destructiveHint };",
        ],
        [
            "permit(principal, action, resource);",
            "forbid(principal, action, resource == Tool::\"x\") when { resource has openWorldHint };",
        ],
        [
            "permit(principal, action, resource);",
            "forbid(principal, action, resource) when { resource has \"\\u{72}eadOnlyHint\" };",
        ],
    ] {
        let policies = load(&policies.map(|text| {
            if text.is_empty() { "permit(principal == Client::\"nobody\", action, resource);" } else { text }
        }));
        assert!(!policies.decide(&alice, with(None)).allowed);
        assert!(policies.decide(&alice, with(Some(&shown))).allowed);
    }
    let elsewhere = load(&[
        "permit(principal, action, resource);",
        "forbid(principal, action, resource == Tool::\"y\") when { resource has openWorldHint };",
        "forbid(principal, action == Action::\"get_prompt\", resource) when { resource has openWorldHint };",
    ]);
    assert!(elsewhere.decide(&alice, with(None)).allowed);
}

#[test]
fn a_list_that_is_asked_for_again_is_judged_the_same_and_each_description_by_itself() {
    let policies = load(&[
        r#"permit(principal, action, resource) when { resource has readOnlyHint && resource.readOnlyHint };"#,
    ]);
    let hint = |read_only| ToolAnnotations { read_only_hint: Some(read_only), ..ToolAnnotations::default() };
    let (reads, writes) = (hint(true), hint(false));
    let none = Value::Null;
    let action =
        |name, annotations| Action::CallTool { name, arguments: &none, annotations: Some(annotations) };
    let alice = who("alice", json!({}));
    let list = [action("a", &reads), action("b", &writes), action("c", &reads)];
    for _ in 0..3 {
        assert_eq!(policies.allowed(&alice, &list), [true, false, true]);
    }
    // The server changes what it says of its tools.
    assert_eq!(policies.allowed(&alice, &[action("a", &writes), action("b", &reads)]), [false, true]);
    // One name twice: the second is not remembered by the first one's words.
    assert_eq!(policies.allowed(&alice, &[action("d", &reads), action("d", &writes)]), [true, true]);
    assert!(!policies.decide(&alice, action("d", &writes)).allowed);
    assert_eq!(policies.allowed(&alice, &[]), [false; 0]);
}

#[test]
fn policies_that_look_at_groups_deny_when_the_groups_are_not_known() {
    let known = who("alice", json!({"groups": ["a"], "roles": ["r"]}));
    let unknown =
        Arc::new(Identity { groups_unknown: true, ..(*who("alice", json!({"roles": ["r"]}))).clone() });
    let all = "permit(principal, action, resource);";
    for (policies, allowed) in [
        (vec![all], true),
        (vec![r#"permit(principal == Client::"alice", action, resource);"#], true),
        (vec![r#"permit(principal, action, resource in MCP::"github");"#], true),
        (vec![r#"permit(principal, action in [Action::"call_tool"], resource);"#], true),
        (vec!["permit(principal, action, resource) when { context.claim_roles.contains(\"r\") };"], true),
        (vec!["permit(principal, action, resource) when { resource in MCP::\"github\" };"], true),
        (vec![all, r#"permit(principal in THVGroup::"x", action, resource);"#], false),
        (vec![all, r#"permit(principal is Client in THVGroup::"x", action, resource);"#], false),
        (vec![all, r#"forbid(principal, action, resource) when { principal in THVGroup::"x" };"#], false),
        (
            vec![all, r#"forbid(principal, action, resource) unless { !(principal in [THVGroup::"x"]) };"#],
            false,
        ),
        (
            vec![
                all,
                r#"forbid(principal, action, resource) when { principal is Client in THVGroup::"x" };"#,
            ],
            false,
        ),
        (vec![all, "forbid(principal, action, resource) when { context has claim_groups && false };"], false),
        (
            vec![
                all,
                "forbid(principal, action, resource) when { principal[\"claim_\\u{67}roups\"] == \"x\" };",
            ],
            false,
        ),
        (
            vec![all, "forbid(principal, action, resource) when { principal has claimset_groups && false };"],
            false,
        ),
        (vec![all, "forbid(principal, action, resource) when { context == {} };"], false),
        (vec![all, "forbid(principal, action, resource) when { context[\"claim_groups\"] == [] };"], false),
        (
            vec![
                all,
                r#"forbid(principal, action, resource) when { {p: principal}.p in THVGroup::"contractors" };"#,
            ],
            false,
        ),
        (
            vec![
                all,
                r#"forbid(principal, action, resource) when { if principal in THVGroup::"x" then true else false };"#,
            ],
            false,
        ),
        (
            vec![
                all,
                "forbid(principal, action, resource) when { (if true then principal else principal) has claim_groups };",
            ],
            false,
        ),
        (
            vec![
                all,
                "forbid(principal, action, resource) when { resource has x && resource.x == principal.claim_groups };",
            ],
            false,
        ),
        (
            vec!["@note(\"x\") permit(principal, action, resource) unless { principal in THVGroup::\"x\" };"],
            false,
        ),
        (vec![all, r#"forbid(principal == Client::"bob", action, resource);"#], true),
        // A policy on another tool or another action is no reason.
        (vec![all, r#"forbid(principal in THVGroup::"x", action, resource == Tool::"other");"#], true),
        (vec![all, r#"forbid(principal in THVGroup::"x", action == Action::"get_prompt", resource);"#], true),
    ] {
        let set = load(&policies);
        let call = Action::CallTool { name: "add", arguments: &Value::Null, annotations: None };
        assert_eq!(set.decide(&unknown, call).allowed, allowed, "{policies:?}");
        assert_eq!(set.allowed(&unknown, &[call]), [allowed], "{policies:?}");
        assert!(!set.decide(&known, call).errors.iter().any(|error| error.contains("groups are not")));
    }
    // Where groups are read from another claim, they are known.
    let config = CedarConfig {
        policies: vec![r#"permit(principal in THVGroup::"r", action, resource);"#.to_owned()],
        group_claim_name: "roles".to_owned(),
        ..CedarConfig::default()
    };
    let set = Policies::load(&config, "s", Numbers::Integers).unwrap();
    let call = Action::CallTool { name: "add", arguments: &Value::Null, annotations: None };
    assert!(set.decide(&unknown, call).allowed);
}
