//! Tokens as identity providers of today write them. See tests/fixtures/README.md.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use skep_api::runconfig::TokenProfile;
use skep_auth::authenticator::{Authenticator, TrustedIssuer};
use skep_auth::error::AuthErrorKind;
use skep_auth::identity::Identity;
use skep_auth::names::Audience;
use skep_auth::rules::TokenRules;
use skep_testkit::FakeIdp;
use skep_testkit::idp::Alg;

use crate::identity::{ISSUED, authenticator, clock_at, rules, trusted};

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const TENANT: &str = "5f0c2a1e-0000-4000-8000-00000000c0de";
const ENTRA_APP: &str = "3b6f0d44-2222-4000-8000-0000000000b2";

/// Issuer and audience as one would configure them for the product.
fn product(name: &str) -> (String, &'static str) {
    let (issuer, audience) = match name {
        "entra-v1" => ("https://sts.windows.net/5f0c2a1e-0000-4000-8000-00000000c0de/", "api://mcp-demo"),
        "entra-v2" => (
            "https://login.microsoftonline.com/5f0c2a1e-0000-4000-8000-00000000c0de/v2.0",
            "9d1c7b52-1111-4000-8000-0000000000a1",
        ),
        "okta" => ("https://company.okta.example/oauth2/default", "api://default"),
        "keycloak" => ("https://sso.company.example/realms/company", "mcp-demo"),
        "google" => ("https://accounts.google.com", "https://mcp.example/tools"),
        "auth0" => ("https://company.eu.auth0.example/", "https://mcp.example/tools"),
        "kubernetes" => ("https://kubernetes.default.svc.cluster.local", "mcp-demo"),
        other => panic!("no product {other}"),
    };
    (issuer.to_owned(), audience)
}

fn fixture(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

struct Judge {
    idp: FakeIdp,
}

impl Judge {
    async fn new() -> Self {
        Self { idp: FakeIdp::with_clock(Arc::new(clock_at(ISSUED))).await }
    }

    fn authenticator(&self, product_name: &str, change: impl FnOnce(&mut TrustedIssuer)) -> Authenticator {
        let (issuer, audience) = product(product_name);
        let mut trusted = trusted(&self.idp, &issuer, rules(audience));
        change(&mut trusted);
        authenticator(vec![trusted], clock_at(ISSUED + 60))
    }

    async fn judge(
        &self,
        name: &str,
        change: impl FnOnce(&mut TokenRules),
    ) -> Result<Arc<Identity>, AuthErrorKind> {
        let shape = fixture(name);
        let token = self.idp.sign(Alg::Rs256, &shape["header"], &shape["claims"]);
        let product_name = name.split('/').next().unwrap();
        let judge = self.authenticator(product_name, |trusted| change(&mut trusted.rules));
        judge.authenticate(&token, SOURCE).await.map_err(|error| error.kind())
    }
}

struct Expected {
    subject: &'static str,
    client: Option<&'static str>,
    is_client: bool,
    scopes: &'static [&'static str],
    groups: &'static [&'static str],
}

#[tokio::test]
async fn access_tokens_of_every_product_say_who_calls() {
    let judge = Judge::new().await;
    let table = [
        (
            "entra-v1/user",
            Expected {
                subject: "AAAA-pairwise-alice",
                client: Some(ENTRA_APP),
                is_client: false,
                scopes: &["mcp.read", "mcp.write"],
                groups: &["c0ffee00-5555-4000-8000-0000000000e5", "c0ffee00-5555-4000-8000-0000000000e6"],
            },
        ),
        (
            "entra-v1/app",
            Expected {
                subject: "client:3b6f0d44-2222-4000-8000-0000000000b2",
                client: Some(ENTRA_APP),
                is_client: true,
                scopes: &[],
                groups: &[],
            },
        ),
        (
            "entra-v2/user",
            Expected {
                subject: "BBBB-pairwise-alice",
                client: Some(ENTRA_APP),
                is_client: false,
                scopes: &["mcp.read"],
                groups: &["c0ffee00-5555-4000-8000-0000000000e5"],
            },
        ),
        (
            "entra-v2/app",
            Expected {
                subject: "client:3b6f0d44-2222-4000-8000-0000000000b2",
                client: Some(ENTRA_APP),
                is_client: true,
                scopes: &[],
                groups: &[],
            },
        ),
        (
            "okta/user",
            Expected {
                subject: "alice@company.example",
                client: Some("0oaINVENTEDCLIENT"),
                is_client: false,
                scopes: &["openid", "mcp:use"],
                groups: &["Everyone", "Engineering"],
            },
        ),
        (
            "okta/app",
            Expected {
                subject: "client:0oaINVENTEDBOT",
                client: Some("0oaINVENTEDBOT"),
                is_client: true,
                scopes: &["mcp:use"],
                groups: &[],
            },
        ),
        (
            "keycloak/user",
            Expected {
                subject: "0d9f6c1a-6666-4000-8000-0000000000f6",
                client: Some("web"),
                is_client: false,
                scopes: &["openid", "profile", "email", "mcp:use"],
                groups: &["/engineering", "/oncall"],
            },
        ),
        (
            "keycloak/app",
            Expected {
                subject: "client:nightly-bot",
                client: Some("nightly-bot"),
                is_client: true,
                scopes: &["profile", "email", "mcp:use"],
                groups: &[],
            },
        ),
        (
            "google/app",
            Expected {
                subject: "client:100000000000000000001",
                client: Some("100000000000000000001"),
                is_client: true,
                scopes: &[],
                groups: &[],
            },
        ),
        (
            "auth0/user",
            Expected {
                subject: "auth0|64aInvented",
                client: Some("InventedSpaClient"),
                is_client: false,
                scopes: &["openid", "profile", "mcp:use"],
                groups: &[],
            },
        ),
        (
            "auth0/user-rfc9068",
            Expected {
                subject: "auth0|64aInvented",
                client: Some("InventedSpaClient"),
                is_client: false,
                scopes: &["openid", "profile", "mcp:use"],
                groups: &[],
            },
        ),
        (
            "auth0/app",
            Expected {
                subject: "client:InventedM2MClient",
                client: Some("InventedM2MClient"),
                is_client: true,
                scopes: &["mcp:use"],
                groups: &[],
            },
        ),
        (
            "kubernetes/app",
            Expected {
                subject: "system:serviceaccount:agents:planner",
                client: None,
                is_client: false,
                scopes: &[],
                groups: &[],
            },
        ),
    ];
    for (name, expected) in table {
        let who = judge.judge(name, |_| {}).await.unwrap_or_else(|kind| panic!("{name}: {kind:?}"));
        assert_eq!(who.subject, expected.subject, "{name}");
        assert_eq!(who.client.as_deref(), expected.client, "{name}");
        assert_eq!(who.is_client, expected.is_client, "{name}");
        assert_eq!(who.scopes, expected.scopes, "{name}");
        let groups = who.claims.get("groups").and_then(Value::as_array).cloned().unwrap_or_default();
        assert_eq!(groups, expected.groups, "{name}");
        assert!(!who.groups_unknown, "{name}");
        assert_eq!(who.issuer, fixture(name)["claims"]["iss"].as_str().unwrap(), "{name}");
        // A policy of before that knows clients by their plain subject still finds them.
        let plain = judge.judge(name, |rules| rules.plain_client_subjects = true).await.unwrap();
        assert_eq!(plain.subject, fixture(name)["claims"]["sub"].as_str().unwrap(), "{name}");
        // For somebody else, from somebody else, or past its time it opens nothing.
        let other = |rules: &mut TokenRules| rules.audiences = Audience::parse("other").into_iter().collect();
        assert_eq!(judge.judge(name, other).await.unwrap_err(), AuthErrorKind::Audience, "{name}");
        let strict = |rules: &mut TokenRules| rules.profile = TokenProfile::Rfc9068;
        let strict = judge.judge(name, strict).await.err();
        assert_eq!(strict, (name != "auth0/user-rfc9068").then_some(AuthErrorKind::WrongKind), "{name}");
        let stranger = |rules: &mut TokenRules| rules.authorized_parties = vec!["other".to_owned()];
        assert_eq!(judge.judge(name, stranger).await.unwrap_err(), AuthErrorKind::Party, "{name}");
    }
}

#[tokio::test]
async fn id_tokens_and_refresh_tokens_of_every_product_are_refused() {
    let judge = Judge::new().await;
    for name in ["entra-v1/id", "entra-v2/id", "okta/id", "keycloak/id", "google/id", "auth0/id"] {
        assert_eq!(judge.judge(name, |_| {}).await.unwrap_err(), AuthErrorKind::WrongKind, "{name}");
        let accepted = judge.judge(name, |rules| rules.accept_id_token = true).await;
        let subject = accepted.unwrap_or_else(|kind| panic!("{name}: {kind:?}")).subject.clone();
        assert_eq!(subject, fixture(name)["claims"]["sub"].as_str().unwrap(), "{name}");
    }
    for accept_id_token in [false, true] {
        let refused = judge.judge("keycloak/refresh", |rules| rules.accept_id_token = accept_id_token).await;
        assert_eq!(refused.unwrap_err(), AuthErrorKind::Algorithm);
        // Also if the realm signed it with the key of its access tokens, for us.
        let mut shape = fixture("keycloak/refresh");
        shape["header"]["alg"] = "RS256".into();
        shape["claims"]["aud"] = "mcp-demo".into();
        let token = judge.idp.sign(Alg::Rs256, &shape["header"], &shape["claims"]);
        let all = judge.authenticator("keycloak", |trusted| trusted.rules.accept_id_token = accept_id_token);
        let refused = all.authenticate(&token, SOURCE).await.unwrap_err();
        assert_eq!(refused.kind(), AuthErrorKind::WrongKind);
    }
    // Made up in the form of the products' refresh tokens, and a Google access token: nothing to read here.
    for (product, opaque) in [
        ("entra-v2", "0.AXkAinvented-refresh_token.AgABAwEAAADnfolhJpSnRYB1SVj-Hgd8"),
        ("entra-v2", "M.C105_BAY.0.U.-invented*"),
        ("okta", "aWludmVudGVkLXJlZnJlc2gtdG9rZW4"),
        ("google", "1//0g-invented-refresh-token"),
        ("google", "ya29.a0Afinvented-access_token"),
        ("auth0", "v1.Minvented-refresh-token"),
    ] {
        let refused = judge.authenticator(product, |_| {}).authenticate(opaque, SOURCE).await.unwrap_err();
        assert_eq!(refused.kind(), AuthErrorKind::Malformed, "{product}");
    }
}

#[tokio::test]
async fn groups_that_did_not_fit_into_the_token_are_unknown() {
    let judge = Judge::new().await;
    let who = judge.judge("entra-v2/overage", |_| {}).await.unwrap();
    assert!(who.groups_unknown);
    assert!(!who.claims.contains_key("groups"));
    let roles = judge.judge("entra-v2/overage", |rules| rules.mappings.groups = "roles".to_owned()).await;
    assert!(!roles.unwrap().groups_unknown, "groups are read from another place");
}

#[tokio::test]
async fn particulars_are_found_where_the_products_put_them() {
    let judge = Judge::new().await;
    for (name, path, groups) in [
        ("auth0/user", "https://company.example/groups", vec!["Engineering"]),
        ("keycloak/user", "realm_access.roles", vec!["offline_access", "operator"]),
        ("keycloak/user", "resource_access.mcp.demo.roles", vec!["tool-user"]),
        ("entra-v2/app", "roles", vec!["Tools.Call"]),
    ] {
        let who = judge.judge(name, |rules| rules.mappings.groups = path.to_owned()).await.unwrap();
        assert_eq!(who.claims["groups"], Value::from(groups), "{name} {path}");
    }
    let nothing = judge.judge("keycloak/user", |rules| rules.mappings.groups = "team".to_owned()).await;
    assert!(!nothing.unwrap().claims.contains_key("groups"), "the token's own groups are not what was meant");
    for (name, path, subject) in [
        ("entra-v1/user", "oid", "aa11bb22-3333-4000-8000-0000000000c3"),
        ("okta/user", "uid", "00uINVENTEDUSER"),
        ("kubernetes/app", "kubernetes.io.serviceaccount.name", "planner"),
        ("entra-v2/app", "oid", "client:3b6f0d44-2222-4000-8000-0000000000b2"),
    ] {
        let who = judge.judge(name, |rules| rules.mappings.subject = path.to_owned()).await.unwrap();
        assert_eq!(who.subject, subject, "{name} {path}");
    }
    let missing = judge.judge("okta/user", |rules| rules.mappings.subject = "oid".to_owned()).await;
    assert_eq!(missing.unwrap_err(), AuthErrorKind::Claims);
}

#[tokio::test]
async fn scopes_are_known_as_clients_ask_for_them() {
    let judge = Judge::new().await;
    let map = |rules: &mut TokenRules| {
        rules.scope_map = [("api://mcp-demo/mcp.read".to_owned(), "mcp.read".to_owned())].into();
        rules.required_scopes = vec!["api://mcp-demo/mcp.read".to_owned()];
    };
    let who = judge.judge("entra-v2/user", map).await.unwrap();
    assert_eq!(who.scopes, ["mcp.read", "api://mcp-demo/mcp.read"]);
    assert_eq!(judge.judge("entra-v2/app", map).await.unwrap_err(), AuthErrorKind::Scope);
}

#[tokio::test]
async fn one_issuer_can_stand_for_the_tenants_that_are_listed() {
    let judge = Judge::new().await;
    let shape = fixture("entra-v2/user");
    let token = judge.idp.sign(Alg::Rs256, &shape["header"], &shape["claims"]);
    for (tenants, fine) in [(vec![TENANT], true), (vec!["another", TENANT], true), (vec!["another"], false)] {
        let issuer = "https://login.microsoftonline.com/{tenantid}/v2.0";
        let mut rules = rules(product("entra-v2").1);
        rules.tenants = tenants.iter().map(|tenant| (*tenant).to_owned()).collect();
        rules.leeway = Duration::from_secs(30);
        let all = authenticator(vec![trusted(&judge.idp, issuer, rules)], clock_at(ISSUED + 60));
        let judged = all.authenticate(&token, SOURCE).await;
        assert_eq!(judged.is_ok(), fine, "{tenants:?}");
        if let Err(error) = judged {
            assert_eq!(error.kind(), AuthErrorKind::Issuer);
        }
    }
    // A tenant cannot sign for another with a key that is published as its own.
    for (of, fine) in [
        ("https://login.microsoftonline.com/{tenantid}/v2.0", true),
        ("https://login.microsoftonline.com/5f0c2a1e-0000-4000-8000-00000000c0de/v2.0", true),
        ("https://login.microsoftonline.com/another/v2.0", false),
    ] {
        let mut key = judge.idp.key(Alg::Rs256).jwk(false);
        key["issuer"] = of.into();
        judge.idp.set_jwks(Some(&serde_json::json!({"keys": [key]}).to_string()));
        let judged = judge.judge("entra-v2/user", |_| {}).await;
        assert_eq!(judged.err(), (!fine).then_some(AuthErrorKind::UnknownKey), "{of}");
    }
}
