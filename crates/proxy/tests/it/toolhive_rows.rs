//! ToolHive's answers on the wire, and its weaknesses, each with the test that says what becomes of it
//! here. The tests stand with their subjects; this file keeps the list whole, and has those that belong
//! nowhere else.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use skep_testkit::{Reply, ScriptedServer, raw};

use crate::harness::{Harness, call, cedar, rpc};

/// Answers of ToolHive's MCP endpoint: what happened, the file and the test.
const ANSWERS: [(&str, &str, &str); 14] = [
    ("413 text: body too large", "body.rs", "a_body_over_the_limit_is_413_however_it_comes"),
    (
        "403 JSON-RPC -32600: Origin rejected",
        "entrance.rs",
        "only_known_origins_are_let_in_and_named_in_cors",
    ),
    (
        "401 JSON and challenge: no token",
        "authentication.rs",
        "an_authorization_header_that_holds_no_one_token_is_refused",
    ),
    (
        "401 JSON and challenge: bad token",
        "authentication.rs",
        "each_bad_token_is_refused_audited_and_counted_and_the_backend_sees_nothing",
    ),
    ("401: exchange failed", "outgoing.rs", "each_failure_of_an_exchange_has_its_answer"),
    ("401, 403: AWS says no", "outgoing_aws.rs", "each_failure_of_aws_has_its_answer"),
    (
        "400 JSON-RPC -32600 without id: batch",
        "body.rs",
        "a_batch_is_refused_as_a_json_rpc_error_without_an_id",
    ),
    (
        "400 JSON-RPC -32020: headers and body differ",
        "body.rs",
        "headers_that_repeat_the_body_must_agree_with_it",
    ),
    ("200 JSON-RPC -32602: filtered tool", "tools.rs", "a_renamed_tool_is_called_under_its_new_name_only"),
    (
        "400: filtered tool, and no JSON wanted",
        "tools.rs",
        "a_client_that_takes_no_json_gets_400_for_a_hidden_tool",
    ),
    (
        "403 JSON-RPC 403: denied",
        "authorization.rs",
        "policies_decide_who_may_do_what_and_what_is_denied_never_reaches_the_backend",
    ),
    ("400 text: unparsable POST", "body.rs", "a_body_that_is_not_one_strict_message_is_refused_and_audited"),
    (
        "405 with Allow: GET and DELETE of a modern client",
        "entrance.rs",
        "methods_that_mcp_does_not_have_end_here",
    ),
    ("500 text: a crash", "../../src/pipeline.rs", "a_crash_is_an_answer"),
];

/// Answers that belong to stages of later parts.
const LATER: [(&str, &str); 10] = [
    ("503 text: storage of the authorization server is down", "authorization server"),
    ("401: the upstream token is gone", "authorization server"),
    ("400 JSON-RPC -32021, -32022, -32602: modern metadata", "protocol versions"),
    ("429 JSON-RPC 429: rate limited", "rate limits"),
    ("403, 422 JSON-RPC 403: a webhook says no", "webhooks"),
    ("403, 500 JSON-RPC: a webhook fails", "webhooks"),
    ("404 JSON-RPC -32001: unknown session", "sessions"),
    ("503 text: the session store is down", "sessions"),
    ("504 text: a stdio server is too slow", "stdio"),
    ("503 text: no token of a remote login", "the client side of OAuth"),
];

/// Weaknesses of ToolHive in the stages that exist, by their number in our notes: what is better here,
/// the file and the test. A path that begins with `auth/` is in that crate.
const BETTER: [(&str, &str, &str); 43] = [
    ("6 no bearer, no call", "outgoing.rs", "without_a_callers_token_there_is_no_exchange_and_no_call"),
    (
        "6 a custom header takes the place of the caller's token",
        "outgoing.rs",
        "another_header_can_carry_the_token_and_the_callers_ends_here_all_the_same",
    ),
    ("6 the caller's Authorization ends here", "headers.rs", "what_a_client_says_to_the_proxy_ends_here"),
    (
        "7 audience, issuer, typ",
        "authentication.rs",
        "each_bad_token_is_refused_audited_and_counted_and_the_backend_sees_nothing",
    ),
    ("7 azp", "issuers.rs", "other_clients_tokens_and_bound_tokens_are_refused"),
    (
        "7 the issuer of the document is compared",
        "keys.rs",
        "documents_that_are_no_keys_of_this_issuer_let_nobody_in",
    ),
    ("7 anonymous only in words", "../../src/config/tests.rs", "what_cannot_be_honoured_is_refused_by_name"),
    (
        "8 what is judged is what is sent",
        "smuggling.rs",
        "the_backend_never_sees_a_request_that_the_proxy_did_not_judge",
    ),
    ("9 an unreadable list is not shown", "lists.rs", "a_list_that_cannot_be_filtered_is_not_shown"),
    ("9 every list is filtered", "lists.rs", "lists_show_what_may_be_used"),
    ("9 a renamed tool has one name", "tools.rs", "a_renamed_tool_is_called_under_its_new_name_only"),
    ("14 the source of a record", "audit.rs", "the_source_comes_from_a_header_only_behind_a_trusted_hop"),
    ("14 labels", "metrics.rs", "clients_cannot_make_labels"),
    (
        "14 refusals at the door are recorded",
        "audit.rs",
        "every_request_has_one_record_whatever_becomes_of_it",
    ),
    (
        "15 token endpoint",
        "auth/exchange/failures.rs",
        "an_endpoint_that_may_not_be_reached_is_not_connected_to",
    ),
    ("15 STS", "auth/aws.rs", "an_endpoint_at_a_metadata_address_is_never_called"),
    ("15 metadata of an issuer", "auth/keys.rs", "metadata_may_not_send_us_to_metadata_services"),
    ("15 X-Forwarded-*", "entrance.rs", "behind_a_trusted_hop_the_forwarded_host_counts"),
    ("27 discovery", "keys.rs", "an_issuer_that_hangs_holds_callers_up_once_and_together"),
    ("27 stale keys", "keys.rs", "keys_at_hand_serve_for_a_day_without_the_issuer"),
    (
        "27 unknown keys",
        "keys.rs",
        "new_keys_are_found_at_once_but_an_unknown_one_asks_only_every_30_seconds",
    ),
    ("28 a drain finishes calls", "drain.rs", "a_drain_finishes_calls_and_sends_standing_streams_away"),
    (
        "29 exchanged tokens are kept",
        "auth/exchange/cache.rs",
        "a_token_is_kept_as_long_as_it_and_the_subjects_token_last",
    ),
    ("29 one exchange for many", "outgoing.rs", "callers_who_come_together_share_one_exchange"),
    (
        "29 refusals are kept briefly",
        "auth/exchange/failures.rs",
        "each_failure_has_its_class_and_only_a_refused_subject_is_kept",
    ),
    ("29 AWS credentials", "auth/aws.rs", "credentials_are_kept_until_shortly_before_they_or_the_token_end"),
    ("29 introspection", "auth/introspection.rs", "an_answer_is_kept_for_its_time_and_no_longer"),
    (
        "29 one introspection for many",
        "auth/introspection.rs",
        "many_callers_with_one_token_ask_once_and_get_one_identity",
    ),
    ("29 JWTs", "auth/identity.rs", "a_verified_token_ends_with_its_time_and_with_its_key"),
    ("30 no exchange for what is denied", "outgoing.rs", "nobody_who_may_not_call_costs_an_exchange"),
    (
        "30 no AWS call for what is denied",
        "outgoing_aws.rs",
        "a_caller_without_a_role_or_a_session_name_is_refused_before_aws_is_asked",
    ),
    ("33 clocks", "authentication.rs", "tokens_within_the_rules_are_accepted"),
    ("34 policies", "reload.rs", "new_policies_take_effect_and_streams_and_connections_stay"),
    ("34 issuers", "issuers.rs", "a_proxy_takes_new_issuers_without_a_restart"),
    ("34 keys of an issuer", "keys.rs", "a_key_that_was_withdrawn_opens_nothing_after_the_next_refresh"),
    (
        "34 client secrets",
        "auth/exchange/rotation.rs",
        "a_rotation_under_load_fails_no_call_whatever_comes_first",
    ),
    ("34 what was exchanged", "outgoing.rs", "kept_tokens_survive_a_reload_unless_what_is_asked_for_changes"),
    ("39 no file", "../../src/config/tests.rs", "a_file_that_does_not_parse_is_named_with_line_and_column"),
    ("39 unknown keys", "runconfig_keys.rs", "a_key_that_nobody_knows_is_refused_wherever_it_stands"),
    ("40 introspected groups", "auth/introspection.rs", "every_claim_of_the_answer_is_kept"),
    ("40 numbers in policies", "../../src/cedar/tests.rs", "numbers_can_be_decimals_as_in_toolhive"),
    ("40 annotations", "authorization.rs", "annotations_are_learned_from_lists_and_unknown_is_not_harmless"),
    ("41 numbers in arguments", "tools.rs", "only_the_name_changes_on_the_way_to_the_backend"),
];

#[test]
fn every_row_has_a_test() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let missing: Vec<String> = ANSWERS
        .iter()
        .chain(&BETTER)
        .filter(|(_, file, test)| {
            let path = match file.strip_prefix("auth/") {
                Some(file) => here.join("../../../auth/tests/it").join(file),
                None => here.join(file),
            };
            let text =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            !text.contains(&format!("fn {test}("))
        })
        .map(|(row, file, test)| format!("{row}: {file} has no {test}"))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(LATER.iter().all(|(row, part)| !row.is_empty() && !part.is_empty()));
}

/// The order in which ToolHive's stages refuse differs with its version. Ours is fixed, and each refusal
/// comes before anything is done for a request that a later stage refuses as well.
#[tokio::test]
async fn of_several_reasons_to_refuse_the_outermost_is_given() {
    let endpoint = ScriptedServer::start(|_| Reply::status(500)).await;
    let policies = cedar(&["permit(principal, action, resource == Tool::\"tool-0\");"]);
    let harness = Harness::start(json!({
        "authz_config": policies["authz_config"], "tools_filter": ["tool-0", "tool-1"],
        "token_exchange_config": {"token_url": endpoint.url("/token"), "client_id": "skep"},
        "skep": {"limits": {"body_bytes": 200}},
    }))
    .await;
    let good = harness.bearer();
    let allowed = call("tool-0").to_string();
    let denied = call("tool-1").to_string();
    let hidden = call("tool-2").to_string();
    let large = rpc(1, "ping", json!({"x": "y".repeat(300)})).to_string();
    for (host, origin, token, body, expected) in [
        ("evil.example", "https://evil.example", "Bearer bad", large.as_str(), 403),
        ("", "https://evil.example", "Bearer bad", &large, 403),
        ("", "", "Bearer bad", &large, 401),
        ("", "", &good, &large, 413),
        ("", "", &good, "[]", 400),
        ("", "", &good, &hidden, 200),
        ("", "", &good, &denied, 403),
        ("", "", &good, &allowed, 503),
    ] {
        let own = harness.address.to_string();
        let host = if host.is_empty() { own.as_str() } else { host };
        let mut head = format!(
            "POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nAuthorization: {token}\r\n\
             Content-Length: {}\r\n",
            body.len()
        );
        if !origin.is_empty() {
            head.push_str(&format!("Origin: {origin}\r\n"));
        }
        let mut connection = skep_testkit::RawConnection::open(harness.address).await;
        connection.send(format!("{head}\r\n{body}").as_bytes()).await;
        let answer = connection.read_answer().await;
        assert_eq!(answer.status, expected, "{head}{body}: {}", answer.text());
    }
    assert_eq!(endpoint.requests().len(), 1, "only for the call that was allowed");
    assert!(harness.backend.requests().is_empty());
}

/// ToolHive answers 401 to every failure of an exchange, so that clients log in again and again while the
/// identity provider is down.
#[tokio::test]
async fn an_outage_of_the_token_endpoint_sends_nobody_to_log_in_and_ends_by_itself() {
    let endpoint = ScriptedServer::start(|_| Reply::hang()).await;
    let harness = Harness::start(json!({
        "token_exchange_config": {"token_url": endpoint.url("/token"), "client_id": "skep"},
    }))
    .await;
    endpoint.down().await;
    let token = harness.token("alice");
    let post = async || raw::post_rpc(harness.address, "/mcp", Some(&token), &call("tool-0")).await;
    for _ in 0..3 {
        let answer = post().await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (503, None));
        assert!(answer.header("retry-after").is_some());
        assert_eq!(answer.json()["error"]["code"], 503);
    }
    endpoint.set_handler(|_| {
        Reply::json(&json!({
            "access_token": "exchanged", "token_type": "Bearer", "expires_in": 600,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        }))
    });
    endpoint.up().await;
    harness.clock.advance(Duration::from_secs(30));
    assert_eq!(post().await.status, 200, "the outage was not kept");
}
