use proptest::prelude::*;
use serde_json::json;

use super::*;

fn judged(expression: &str, claims: &Value) -> bool {
    let matcher = Matcher::compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    matcher.matches(&Claims::new(claims.as_object().unwrap()))
}

#[test]
fn expressions_see_the_claims() {
    let claims = json!({
        "sub": "alice", "groups": ["dev", "ops"], "level": 3, "score": 2.5, "big": u64::MAX, "nothing": null,
        "email": "alice@example.com", "verified": true, "https://app.example/team": "blue",
        "realm_access": {"roles": ["admin"]},
    });
    for (expression, expected) in [
        ("true", true),
        ("false", false),
        ("claims.sub == 'alice'", true),
        (r#"claims["sub"] == "alice""#, true),
        ("claims.sub == 'bob'", false),
        ("'dev' in claims.groups", true),
        ("'root' in claims.groups", false),
        ("'sub' in claims", true),
        ("has(claims.groups) && size(claims.groups) == 2", true),
        ("has(claims.teams)", false),
        ("claims.groups.exists(g, g.startsWith('de'))", true),
        ("claims.groups.all(g, g.endsWith('s'))", false),
        ("claims.groups.exists_one(g, g == 'ops')", true),
        ("claims.groups.filter(g, g.contains('o')).size() == 1", true),
        ("claims.groups.map(g, g + '!').exists(g, g == 'dev!')", true),
        ("['root', 'ops'].exists(wanted, claims.groups.exists(g, g == wanted))", true),
        ("claims.email.matches('^[a-z]+@example[.]com$')", true),
        ("matches(claims.email, 'evil')", false),
        ("claims.level >= 3", true),
        ("claims.level == 3.0", true),
        ("claims.level + 1 == 4", true),
        ("claims.score > 2", true),
        ("claims.big > 1u", true),
        ("claims.nothing == null", true),
        ("claims.verified", true),
        ("!claims.verified", false),
        ("claims['https://app.example/team'] == 'blue'", true),
        ("'admin' in claims.realm_access.roles", true),
        ("type(claims.sub) == string", true),
        ("claims.level > 2 ? 'dev' in claims.groups : false", true),
        ("claims.exists(name, name == 'sub')", true),
        ("claims.sub == 'alice' || claims.missing == 1", true),
        // What cannot be judged does not hold.
        ("claims.missing == 'x'", false),
        ("claims.sub", false),
        ("claims.level", false),
        ("claims.groups[7] == 'x'", false),
        ("claims.sub > 1", false),
        ("claims.level / 0 == 1", false),
        ("9223372036854775807 + claims.level > 0", false),
        ("claims.sub.matches('(')", false),
        ("claims.sub.exists(x, true)", false),
        ("claims", false),
    ] {
        assert_eq!(judged(expression, &claims), expected, "{expression}");
    }
}

#[test]
fn what_can_never_hold_is_refused() {
    let deep = format!("{}claims.a{}", "[".repeat(80), "][0]".repeat(80));
    let chain = format!("claims.n == 0{}", " + 1".repeat(2400));
    let long = format!("claims.sub == '{}'", "x".repeat(MAX_BYTES));
    let loops = "claims.a.all(x, claims.a.all(y, claims.a.all(z, x == y && y == z)))";
    for (expression, expected) in [
        ("", "no CEL expression"),
        ("claims.", "no CEL expression"),
        ("claims.sub == 'alice", "no CEL expression"),
        ("claims.sub = 'alice'", "no CEL expression"),
        ("claims sub", "no CEL expression"),
        ("\0", "no CEL expression"),
        ("has(claims)", "no CEL expression"),
        ("groups.exists(g, g == 'a')", "\"groups\" is not known"),
        ("claim.sub == 'alice'", "\"claim\" is not known"),
        ("claims.a.exists(g, true) && g == 'a'", "\"g\" is not known"),
        ("claims.sub.lowerAscii() == 'a'", "\"lowerAscii\" is not known"),
        ("now() == 1", "\"now\" is not known"),
        ("timestamp('2026-01-01T00:00:00Z') == claims.t", "\"timestamp\" is not known"),
        ("'alice'", "never true or false"),
        ("1", "never true or false"),
        ("[claims.a]", "never true or false"),
        ("{'a': 1}", "never true or false"),
        ("a.B{c: 1} == 1", "never true or false"),
        (loops, "loops inside each other"),
        (&deep, ""),
        (&chain, ""),
        (&long, "longer than"),
    ] {
        let error = Matcher::compile(expression).expect_err(expression).to_string();
        assert!(error.contains(expected), "{expression}: {error}");
    }
}

#[test]
fn the_deepest_expression_fits_on_the_stack_of_a_worker() {
    // Negations nest without the parser folding them.
    let claims = json!({"a": true});
    let mut deepest = None;
    for depth in (1..=MAX_DEPTH).rev() {
        let expression = format!("{}claims.a{}", "(claims.a && !".repeat(depth), ")".repeat(depth));
        if let Ok(matcher) = Matcher::compile(&expression) {
            deepest = Some(matcher);
            break;
        }
    }
    let matcher = deepest.expect("some depth is allowed");
    let worker = std::thread::Builder::new().stack_size(2 << 20);
    let judged = worker.spawn(move || matcher.matches(&Claims::new(claims.as_object().unwrap()))).unwrap();
    judged.join().expect("no overflow");
}

#[test]
fn a_token_with_too_many_claims_for_nested_loops_does_not_match() {
    let groups: Vec<String> = (0..1001).map(|number| format!("g{number}")).collect();
    let claims = json!({ "groups": groups });
    assert!(judged("claims.groups.exists(g, g == 'g1000')", &claims));
    let nested = "claims.groups.exists(a, claims.groups.exists(b, a == b))";
    assert!(!judged(nested, &claims));
    assert!(judged(nested, &json!({"groups": ["a"]})));
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "claims",
        "claims.a",
        "claims.l",
        "claims.m",
        "claims.s",
        "1",
        "0",
        "-1",
        "2u",
        "1.5",
        "'x'",
        "b'x'",
        "true",
        "null",
        "[]",
        "{}",
        "9223372036854775807",
        "x",
        "int",
        "''",
        "'('",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(5, 48, 3, |inner| {
        let infix = prop::sample::select(vec!["+", "-", "*", "/", "%", "==", "<", ">=", "&&", "||", "in"]);
        let method =
            prop::sample::select(vec!["contains", "startsWith", "matches", "all", "exists", "map", "filter"]);
        let function =
            prop::sample::select(vec!["size", "int", "string", "double", "bytes", "type", "has", "uint"]);
        prop_oneof![
            (inner.clone(), infix, inner.clone()).prop_map(|(a, infix, b)| format!("({a} {infix} {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            (inner.clone(), method.clone(), inner.clone())
                .prop_map(|(a, method, b)| format!("{a}.{method}({b})")),
            (inner.clone(), method, inner.clone()).prop_map(|(a, method, b)| format!("{a}.{method}(x, {b})")),
            (function, inner.clone()).prop_map(|(function, a)| format!("{function}({a})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{{a}: {b}}}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            inner.prop_map(|a| format!("-{a}")),
        ]
    })
}

proptest! {
    #[test]
    fn no_expression_crashes(text in "[a-z.()'\"\\[\\]{}<>=!&|+*/%?:, 0-9\\\\\u{e9}\0-]{0,60}") {
        let claims = json!({"a": 1});
        if let Ok(matcher) = Matcher::compile(&text) {
            matcher.matches(&Claims::new(claims.as_object().unwrap()));
        }
    }

    #[test]
    fn no_evaluation_crashes(text in expression()) {
        let claims = json!({"a": -1, "l": [1, "x", null, [2]], "m": {"x": 1, "": 2}, "s": "\u{e9}x", "i": i64::MIN});
        if let Ok(program) = checked(&text) {
            // Below `catch_unwind`, so that a crash is seen here.
            let mut context = Context::with_env(Arc::clone(&STANDARD));
            context.add_variable_from_value("claims", Claims::new(claims.as_object().unwrap()).value());
            let _ = program.0.execute(&context);
        }
    }
}
