//! What `skep up` says to the person who started it. It goes to standard error: standard output has the
//! audit records, one JSON object a line, and nothing else.

use std::collections::BTreeMap;
use std::io::Write as _;

use super::Key;
use super::demo::Demo;
use super::instance::Instance;
use crate::cmd::report::Report;

/// One line.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// What was found in the manifests.
pub(crate) fn findings(report: &Report) {
    let _ = write!(std::io::stderr().lock(), "{}", report.lines());
}

/// The table of endpoints.
pub(crate) fn table(instances: &BTreeMap<Key, Instance>, issuer: Option<&str>, metrics: &str) {
    let mut rows: Vec<(String, String)> = instances
        .iter()
        .map(|((kind, namespace, name), instance)| {
            let name = if namespace == "default" { name.clone() } else { format!("{namespace}/{name}") };
            (format!("{} {name}", kind.as_str()), instance.url().to_owned())
        })
        .collect();
    rows.extend(issuer.map(|issuer| ("identity provider".to_owned(), issuer.to_owned())));
    rows.push(("metrics".to_owned(), metrics.to_owned()));
    let width = rows.iter().map(|(what, _)| what.chars().count()).max().unwrap_or_default();
    say("");
    for (what, url) in rows {
        say(&format!("  {what:<width$}  {url}"));
    }
    say("");
}

/// Commands to paste: a call that works, one that is refused, one that is challenged.
pub(crate) fn commands(instances: &BTreeMap<Key, Instance>, demo: &Demo) {
    let Some(url) = instances.values().next().map(Instance::url) else { return };
    let skep = std::env::current_exe()
        .ok()
        .filter(|_| !on_path("skep"))
        .map_or_else(|| "skep".to_owned(), |path| path.display().to_string());
    let socket = &demo.socket_argument;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"delete_everything","arguments":{}}}"#;
    let call = |token: &str| {
        format!(
            "  curl -i {url} \\\n{token}    -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \\\n    -d '{body}'\n"
        )
    };
    let of =
        |user: &str| format!("    -H \"Authorization: Bearer $({skep} token{socket} --user {user})\" \\\n");
    say("Try it in a second terminal. alice is an administrator and may (200):\n");
    say(&call(&of("alice")));
    say("bob may not (403):\n");
    say(&call(&of("bob")));
    say("Without a token one is told where to get one (401):\n");
    say(&call(""));
    say("Each call leaves an audit record below, one line of JSON on standard output. Ctrl-C ends.\n");
}

fn on_path(name: &str) -> bool {
    let same = |found: &std::path::Path| {
        let ours = std::env::current_exe().and_then(|path| path.canonicalize());
        matches!((found.canonicalize(), ours), (Ok(found), Ok(ours)) if found == ours)
    };
    std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|folder| same(&folder.join(name))))
}
