//! What the demo must not give away.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::http::{call_tool, client, get};
use crate::harness::up::Up;

#[tokio::test]
async fn no_token_is_ever_printed() {
    let up = Up::demo().await;
    let url = up.url("MCPRemoteProxy", "demo");
    let token = up.token("bob").await;
    let signature = token.rsplit('.').next().unwrap();
    call_tool(&url, Some(&token), "whoami", json!({})).await;
    call_tool(&url, Some(&token), "delete_everything", json!({})).await;
    call_tool(&url, Some(&format!("{token}x")), "echo", json!({})).await;
    up.audit(2, |record| record["subjects"]["user_id"] == "bob").await;
    for text in [up.stdout.text(), up.stderr.text(), up.ready.to_string()] {
        assert!(!text.contains(signature), "{text}");
    }
}

#[tokio::test]
async fn the_token_socket_is_for_its_owner_alone() {
    let up = Up::demo().await;
    let sockets = sockets_under(up.home());
    assert_eq!(sockets.len(), 1, "{sockets:?}");
    let mode = fs::metadata(&sockets[0]).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{}", sockets[0].display());
}

fn sockets_under(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(sockets_under(&entry.path()));
        } else if kind.is_socket() {
            found.push(entry.path());
        }
    }
    found
}

#[tokio::test]
async fn nobody_gets_a_demo_users_token_over_the_network() {
    let up = Up::demo().await;
    let issuer = up.ready["issuer"].as_str().unwrap();
    let discovery = get(&format!("{issuer}/.well-known/openid-configuration")).await.message();
    let endpoint = discovery["token_endpoint"].as_str().unwrap();
    let bob = up.token("bob").await;
    const EXCHANGE: (&str, &str) = ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange");
    const ACCESS_TOKEN: (&str, &str) =
        ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token");
    let forms: [&[(&str, &str)]; 6] = [
        &[("grant_type", "client_credentials"), ("client_id", "alice")],
        &[("grant_type", "client_credentials"), ("client_id", "alice"), ("client_secret", "alice")],
        &[("grant_type", "password"), ("username", "alice"), ("password", "alice")],
        // Who has bob's token is not the proxy yet: the secret that stands in the manifest is not the one.
        &[EXCHANGE, ACCESS_TOKEN, ("subject_token", &bob)],
        &[EXCHANGE, ACCESS_TOKEN, ("subject_token", &bob), ("client_id", "skep-proxy")],
        &[
            EXCHANGE,
            ACCESS_TOKEN,
            ("subject_token", &bob),
            ("client_id", "skep-proxy"),
            ("client_secret", "made-at-each-start"),
        ],
    ];
    for form in forms {
        let response = client().post(endpoint).form(form).send().await.unwrap();
        let status = response.status().as_u16();
        assert!([400, 401].contains(&status), "{form:?}: {status}");
        let body = response.text().await.unwrap();
        assert!(!body.contains("access_token\":"), "{form:?}: {body}");
    }
}
