//! What policies cost: a list of 200 tools, and one call, under 1,000 policies.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skep_api::runconfig::CedarConfig;
use skep_auth::identity::Identity;
use skep_proxy::cedar::{Action, Numbers, Policies};

#[expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]
fn main() -> anyhow::Result<()> {
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    let one_tool_each: Vec<String> = (0..1000)
        .map(|number| {
            format!(
                r#"permit(principal in THVGroup::"team-{}", action == Action::"call_tool", resource == Tool::"tool-{}");"#,
                number % 7,
                number % 200
            )
        })
        .collect();
    let policies = load(one_tool_each)?;
    let names: Vec<String> = (0..200).map(|number| format!("tool-{number}")).collect();
    const NONE: &Value = &Value::Null;
    let actions: Vec<Action<'_>> =
        names.iter().map(|name| Action::CallTool { name, arguments: NONE, annotations: None }).collect();
    let who = Arc::new(identity());
    let list = median(|| {
        black_box(policies.allowed(&Arc::new(identity()), &actions));
    });
    println!("list of 200 tools, 1,000 policies, a caller who was not seen before: {list:?}");
    let list = median(|| {
        black_box(policies.allowed(&who, &actions));
    });
    println!("list of 200 tools, 1,000 policies, the same caller again: {list:?}");
    let call = actions.first().copied().ok_or_else(|| anyhow::anyhow!("no tools"))?;
    let first = median(|| {
        // Another identity each time, so that nothing is remembered.
        black_box(policies.decide(&Arc::new(identity()), call));
    });
    println!("one call, 1,000 policies, a caller who was not seen before: {first:?}");
    let again = median(|| {
        black_box(policies.decide(&who, call));
    });
    println!("one call, 1,000 policies, the same caller again: {again:?}");
    Ok(())
}

fn load(texts: Vec<String>) -> anyhow::Result<Policies> {
    let config = CedarConfig { policies: texts, ..CedarConfig::default() };
    Ok(Policies::load(&config, "bench", Numbers::Integers)?)
}

fn identity() -> Identity {
    let claims = json!({"sub": "alice", "iss": "https://idp.example", "email": "alice@example.test",
        "groups": ["team-1", "team-3"], "scope": "mcp:read mcp:write", "exp": 1_900_000_000_i64});
    Identity {
        claims: claims.as_object().cloned().unwrap_or_default(),
        ..Identity::of("https://idp.example", "alice")
    }
}

fn median(mut work: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..201)
        .map(|_| {
            let begun = Instant::now();
            work();
            begun.elapsed()
        })
        .collect();
    times.sort();
    times.get(100).copied().unwrap_or_default()
}
