//! What makes a token good, whoever vouches for its claims: a signature, or the issuer when it is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use skep_api::runconfig::{ClaimMappings, TokenProfile};

use crate::error::AuthError;
use crate::identity::{Identity, Namespace};
use crate::jwt::UnverifiedJwt;
use crate::mapping::{groups_unknown, materialise, subject};
use crate::names::Audience;
use crate::parties::{Party, party};

/// What stands before the id of a client that calls for itself.
pub const CLIENT_PREFIX: &str = "client:";

/// How far in the future a token may say that it was issued, in seconds.
const CLOCKS_DIFFER: i64 = 24 * 60 * 60;

/// What makes a token of one issuer good.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenRules {
    /// A token must be meant for one of these. Without any, every token is refused: an unchecked
    /// audience is an open door.
    pub audiences: Vec<Audience>,
    /// Algorithms that are accepted, among those the key allows.
    pub algorithms: Vec<Algorithm>,
    /// Tolerance for `exp` and `nbf`.
    pub leeway: Duration,
    /// Which JWTs count as access tokens.
    pub profile: TokenProfile,
    /// ID tokens are accepted too.
    pub accept_id_token: bool,
    /// Tenants whose id may stand in the issuer; see [`crate::names::TENANT`].
    pub tenants: Vec<String>,
    /// Clients that tokens may have been issued to; empty means any.
    pub authorized_parties: Vec<String>,
    /// Scopes as clients ask for them, to scopes as tokens have them.
    pub scope_map: BTreeMap<String, String>,
    /// Scopes, as clients ask for them, that every token must have.
    pub required_scopes: Vec<String>,
    /// Where in the claims the caller's particulars are.
    pub mappings: ClaimMappings,
    /// The issuer's names among those of others: what is put before every subject and group.
    pub namespace: Namespace,
    /// A client that calls for itself is known by its subject like anybody else.
    pub plain_client_subjects: bool,
}

/// Claims that somebody vouches for.
pub(crate) struct Vouched {
    pub(crate) issuer: String,
    pub(crate) claims: Map<String, Value>,
    pub(crate) token_digest: [u8; 32],
}

/// A caller, and from when on their token is good.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) identity: Identity,
    pub(crate) not_before: i64,
}

impl TokenRules {
    /// Judges claims: for whom, when, through which client, who, and how far they reach.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn judge(&self, vouched: Vouched, now: i64) -> Result<Judged, AuthError> {
        let Vouched { issuer, mut claims, token_digest } = vouched;
        if !self.meant_for_us(&claims) {
            return Err(AuthError::Audience);
        }
        let expires_at =
            seconds(&claims, "exp")?.ok_or(AuthError::Malformed { reason: "it has no expiry (exp)" })?;
        let not_before = seconds(&claims, "nbf")?.unwrap_or(i64::MIN).max(issued_soon(&claims));
        self.check_times(expires_at, not_before, now)?;
        // A token that is bound to its client's key (RFC 7800) was not meant to be a bearer token: whoever
        // has it without the key has stolen it.
        if claims.get("cnf").is_some_and(|bound| !bound.is_null()) {
            return Err(AuthError::Bound);
        }
        let party = party(&issuer, &claims);
        let accepted = |client: &String| self.authorized_parties.contains(client);
        if !self.authorized_parties.is_empty() && !party.client.as_ref().is_some_and(accepted) {
            return Err(AuthError::Party);
        }
        let subject = self.subject(&party, &claims)?;
        let scopes = self.scopes(&claims);
        self.check_scopes(&scopes)?;
        let groups_unknown = groups_unknown(&self.mappings, &claims);
        materialise(&self.mappings, &mut claims);
        let identity = Identity {
            issuer,
            subject,
            claims,
            scopes,
            client: party.client,
            is_client: party.for_itself,
            groups_unknown,
            namespace: self.namespace.clone(),
            expires_at,
            token_digest,
        };
        Ok(Judged { identity, not_before })
    }

    /// Access tokens only, unless ID tokens are asked for. An ID token says who logged in to some client;
    /// a refresh token is for the authorization server alone. Neither is a key to a resource (RFC 9068 §5).
    pub(crate) fn check_kind(&self, jwt: &UnverifiedJwt<'_>) -> Result<(), AuthError> {
        let kind = jwt.kind.as_deref();
        match (self.profile, kind) {
            (_, Some("at+jwt")) | (TokenProfile::Any, None | Some("jwt")) => {}
            (TokenProfile::Rfc9068, None | Some("jwt")) => {
                return Err(AuthError::WrongKind { reason: "its typ is not at+jwt" });
            }
            _ => return Err(AuthError::WrongKind { reason: "it is no access token (typ)" }),
        }
        self.check_claimed_kind(&jwt.claims, kind == Some("at+jwt"))
    }

    /// What the claims say about the kind of token; `said` when the header says that it is an access token.
    pub(crate) fn check_claimed_kind(
        &self,
        claims: &Map<String, Value>,
        said: bool,
    ) -> Result<(), AuthError> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        // Keycloak writes what a token is into `typ`, Cognito and Hydra into `token_use`.
        let id_token = match text("typ").or_else(|| text("token_use")) {
            Some("Refresh" | "Offline" | "Logout" | "refresh" | "refresh_token") => {
                let reason = "it is a refresh or logout token; an access token is needed";
                return Err(AuthError::WrongKind { reason });
            }
            Some("DPoP") => return Err(AuthError::Bound),
            Some("RegistrationAccessToken" | "InitialAccessToken") => {
                return Err(AuthError::WrongKind { reason: "it is a token for client registration" });
            }
            Some("ID" | "id" | "id_token") => true,
            _ if !said && is_security_event(claims) => {
                return Err(AuthError::WrongKind {
                    reason: "it tells of an event; an access token is needed",
                });
            }
            _ => !said && (marks_an_id_token(claims) || is_entra_id_token(claims)),
        };
        if id_token && !self.accept_id_token {
            return Err(AuthError::WrongKind { reason: "it is an ID token; an access token is needed" });
        }
        Ok(())
    }

    /// Checks that a token is good at `now`.
    pub(crate) fn check_times(&self, expires_at: i64, not_before: i64, now: i64) -> Result<(), AuthError> {
        let leeway = i64::try_from(self.leeway.as_secs()).unwrap_or(i64::MAX);
        if now >= expires_at.saturating_add(leeway) {
            return Err(AuthError::Expired);
        }
        if now < not_before.saturating_sub(leeway) {
            return Err(AuthError::NotYetValid);
        }
        Ok(())
    }

    fn meant_for_us(&self, claims: &Map<String, Value>) -> bool {
        let ours = |value: &Value| {
            value.as_str().is_some_and(|text| self.audiences.iter().any(|ours| ours.as_str() == text))
        };
        match claims.get("aud") {
            Some(Value::Array(items)) => items.iter().any(ours),
            Some(value) => ours(value),
            None => false,
        }
    }

    /// Who calls. No subject may look like a client or like a subject of another issuer: identity
    /// providers let users choose some of what can be mapped here.
    fn subject(&self, party: &Party, claims: &Map<String, Value>) -> Result<String, AuthError> {
        let as_client = party.for_itself && !self.plain_client_subjects;
        let own = match &party.client {
            Some(client) if as_client => format!("{CLIENT_PREFIX}{client}"),
            _ => {
                if self.mappings.subject == "email" && is_unverified(claims) {
                    return Err(AuthError::UnverifiedEmail);
                }
                subject(&self.mappings, claims).ok_or(AuthError::NoSubject)?
            }
        };
        if !as_client && !self.plain_client_subjects && own.starts_with(CLIENT_PREFIX) {
            return Err(AuthError::NoSubject);
        }
        self.namespace.name(&own).ok_or(AuthError::NoSubject)
    }

    fn scopes(&self, claims: &Map<String, Value>) -> Vec<String> {
        let mut scopes = granted(claims);
        let asked = self.scope_map.iter().filter(|(_, granted)| scopes.contains(granted));
        let asked: Vec<String> = asked.map(|(asked, _)| asked.clone()).collect();
        for scope in asked {
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        scopes
    }

    fn check_scopes(&self, scopes: &[String]) -> Result<(), AuthError> {
        if self.required_scopes.iter().all(|required| scopes.contains(required)) {
            return Ok(());
        }
        Err(AuthError::InsufficientScope { required: self.required_scopes.join(" ") })
    }
}

/// Scopes as the token has them: `scope` as one string with spaces (RFC 8693 §4.2), or `scp` as a string
/// or an array.
fn granted(claims: &Map<String, Value>) -> Vec<String> {
    let split = |text: &str| text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
    match claims.get("scope").or_else(|| claims.get("scp")) {
        Some(Value::String(text)) => split(text),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn marks_an_id_token(claims: &Map<String, Value>) -> bool {
    ["nonce", "at_hash", "c_hash", "s_hash"].iter().any(|name| claims.contains_key(*name))
}

/// Microsoft Entra writes nothing that says "ID token" when the login had no nonce; but each of its access
/// tokens names the client (`appid` in version 1.0, `azp` in 2.0), and no ID token does.
fn is_entra_id_token(claims: &Map<String, Value>) -> bool {
    let version = claims.get("ver").and_then(Value::as_str);
    claims.contains_key("tid")
        && matches!(version, Some("1.0" | "2.0"))
        && !claims.contains_key("appid")
        && !claims.contains_key("azp")
}

/// A security event, such as a logout token (RFC 8417 §2.2, OpenID Connect Back-Channel Logout §2.4): its
/// events have URIs as their names.
fn is_security_event(claims: &Map<String, Value>) -> bool {
    let events = claims.get("events").and_then(Value::as_object);
    events.is_some_and(|events| events.keys().any(|name| name.contains(':')))
}

/// The provider says that the address is not known to be the user's. Who may choose an address freely must
/// not be taken for whoever has it. Many providers say nothing.
fn is_unverified(claims: &Map<String, Value>) -> bool {
    claims.get("email_verified").is_some_and(|verified| *verified != true && *verified != "true")
}

/// From when on a token may be good by the time at which it was issued. Clocks differ a little, which is no
/// fault; by more than this, one of them is wrong, and if it is ours, long expired tokens look good.
fn issued_soon(claims: &Map<String, Value>) -> i64 {
    let issued = seconds(claims, "iat").ok().flatten();
    issued.map_or(i64::MIN, |issued| issued.saturating_sub(CLOCKS_DIFFER))
}

/// A NumericDate (RFC 7519 §2): whole or fractional seconds.
fn seconds(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, AuthError> {
    const BAD: AuthError = AuthError::Malformed { reason: "a time in it is not a number" };
    let Some(value) = claims.get(name) else { return Ok(None) };
    if let Some(whole) = value.as_i64() {
        return Ok(Some(whole));
    }
    let float = value.as_f64().filter(|float| float.is_finite() && float.abs() < 1e15).ok_or(BAD)?;
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked one line above")]
    let whole = float.floor() as i64;
    Ok(Some(whole))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn judged(rules: &TokenRules, claims: Value) -> Result<Identity, AuthError> {
        let mut all = json!({"sub": "u", "aud": "us", "exp": 2000});
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        let claims = all.as_object().unwrap().clone();
        let vouched = Vouched { issuer: "i".to_owned(), claims, token_digest: [0; 32] };
        rules.judge(vouched, 1000).map(|judged| judged.identity)
    }

    fn rules(change: impl FnOnce(&mut TokenRules)) -> TokenRules {
        let mut rules =
            TokenRules { audiences: Audience::parse("us").into_iter().collect(), ..TokenRules::default() };
        change(&mut rules);
        rules
    }

    #[test]
    fn required_scopes_are_those_that_clients_ask_for() {
        let rules = rules(|rules| {
            rules.scope_map = [("api://app/mcp.read".to_owned(), "mcp.read".to_owned())].into();
            rules.required_scopes = vec!["api://app/mcp.read".to_owned(), "extra".to_owned()];
        });
        let missing =
            || Err(AuthError::InsufficientScope { required: "api://app/mcp.read extra".to_owned() });
        for (claims, expected) in [
            (json!({"scp": "mcp.read extra"}), Ok(vec!["mcp.read", "extra", "api://app/mcp.read"])),
            (json!({"scp": ["mcp.read", "extra"]}), Ok(vec!["mcp.read", "extra", "api://app/mcp.read"])),
            (json!({"scope": "api://app/mcp.read  extra"}), Ok(vec!["api://app/mcp.read", "extra"])),
            (json!({"scope": "mcp.read"}), missing()),
            (json!({"scope": "extra", "scp": "mcp.read"}), missing()),
            (json!({"scope": ["mcp.read", 7]}), missing()),
            (json!({"scope": 7}), missing()),
            (json!({}), missing()),
        ] {
            let scopes = judged(&rules, claims.clone()).map(|identity| identity.scopes);
            let expected = expected.map(|scopes| scopes.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(scopes, expected, "{claims}");
        }
    }

    #[test]
    fn nobody_can_take_the_name_of_a_client_or_of_another_issuers_user() {
        let plain = rules(|rules| rules.namespace.foreign = vec!["partner:".to_owned()]);
        let partner = rules(|rules| rules.namespace.prefix = "partner:".to_owned());
        let as_toolhive = rules(|rules| rules.plain_client_subjects = true);
        let by_name = rules(|rules| rules.mappings.subject = "username".to_owned());
        for (rules, claims, expected) in [
            (&plain, json!({}), Ok("u")),
            (&plain, json!({"sub": "partner:u"}), Err(AuthError::NoSubject)),
            (&plain, json!({"sub": "client:bot"}), Err(AuthError::NoSubject)),
            (&plain, json!({"sub": "bot", "azp": "bot"}), Ok("client:bot")),
            (&partner, json!({}), Ok("partner:u")),
            (&partner, json!({"sub": "bot", "azp": "bot"}), Ok("partner:client:bot")),
            (&partner, json!({"sub": "client:bot"}), Err(AuthError::NoSubject)),
            (&as_toolhive, json!({"sub": "bot", "azp": "bot"}), Ok("bot")),
            (&as_toolhive, json!({"sub": "client:bot"}), Ok("client:bot")),
            (&by_name, json!({"username": "alice"}), Ok("alice")),
            (&by_name, json!({"username": "client:bot"}), Err(AuthError::NoSubject)),
            (&by_name, json!({}), Err(AuthError::NoSubject)),
        ] {
            let subject = judged(rules, claims.clone()).map(|identity| identity.subject);
            assert_eq!(subject, expected.map(str::to_owned), "{claims}");
        }
    }

    #[test]
    fn tokens_of_other_clients_and_bound_tokens_are_refused() {
        let rules = rules(|rules| rules.authorized_parties = vec!["web".to_owned(), "cli".to_owned()]);
        for (claims, expected) in [
            (json!({"azp": "web"}), None),
            (json!({"client_id": "cli"}), None),
            (json!({"azp": "web", "client_id": "other"}), None),
            (json!({"azp": "other", "client_id": "web"}), Some(AuthError::Party)),
            (json!({"azp": "Web"}), Some(AuthError::Party)),
            (json!({}), Some(AuthError::Party)),
            (json!({"azp": "web", "cnf": {"jkt": "x"}}), Some(AuthError::Bound)),
            (json!({"azp": "web", "cnf": {"x5t#S256": "x"}}), Some(AuthError::Bound)),
            (json!({"azp": "web", "cnf": {"from-the-future": "x"}}), Some(AuthError::Bound)),
            (json!({"azp": "web", "cnf": {}}), Some(AuthError::Bound)),
            (json!({"azp": "web", "cnf": null}), None),
        ] {
            assert_eq!(judged(&rules, claims.clone()).err(), expected, "{claims}");
        }
    }

    #[test]
    fn without_an_audience_of_ours_every_token_is_refused() {
        let nobody = rules(|rules| rules.audiences.clear());
        assert_eq!(judged(&nobody, json!({})).err(), Some(AuthError::Audience));
        let several = rules(|rules| rules.audiences.extend(Audience::parse("us-too")));
        for (audience, fine) in [
            (json!("us"), true),
            (json!("us-too"), true),
            (json!(["x", "us-too"]), true),
            (json!(["x"]), false),
            (json!("us us-too"), false),
            (json!(null), false),
        ] {
            assert_eq!(judged(&several, json!({"aud": audience})).is_ok(), fine, "{audience}");
        }
    }
    /// A value that a hostile or careless issuer could give any claim.
    fn odd() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            prop_oneof![900..1100_i64, any::<i64>()].prop_map(Value::from),
            any::<f64>().prop_map(|float| json!(float)),
            prop::sample::select(vec![
                "us",
                "us ",
                "",
                "u",
                "bot",
                "client:bot",
                "partner:u",
                "app",
                "client-credentials",
                "bot@clients",
                "service-account-bot",
                "5f0c2a1e-0000-4000-8000-00000000c0de",
                "a b",
                "\u{0}",
            ])
            .prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,3}", inner, 0..3).prop_map(|map| json!(map)),
            ]
        })
    }

    const NAMES: [&str; 19] = [
        "sub",
        "aud",
        "exp",
        "nbf",
        "iat",
        "azp",
        "client_id",
        "cid",
        "appid",
        "scope",
        "scp",
        "cnf",
        "idtyp",
        "tid",
        "oid",
        "gty",
        "preferred_username",
        "sid",
        "groups",
    ];

    proptest! {
        #[test]
        fn whatever_is_claimed_only_what_is_meant_for_us_and_good_now_gets_a_name_of_its_own(
            changes in prop::collection::btree_map(prop::sample::select(NAMES.to_vec()), odd(), 0..6),
            prefix in prop::sample::select(vec!["", "partner:"]),
            realm in any::<bool>(),
        ) {
            let rules = rules(|rules| {
                rules.namespace.prefix = prefix.to_owned();
                if prefix.is_empty() {
                    rules.namespace.foreign = vec!["partner:".to_owned()];
                }
            });
            let mut claims = json!({"sub": "u", "aud": "us", "exp": 2000, "azp": "web"});
            for (name, value) in &changes {
                claims[*name] = value.clone();
            }
            let claims = claims.as_object().unwrap().clone();
            let before = claims.clone();
            let issuer = if realm {
                "https://sso.example/realms/r"
            } else {
                "https://sts.example/5f0c2a1e-0000-4000-8000-00000000c0de/"
            };
            let vouched = Vouched { issuer: issuer.to_owned(), claims, token_digest: [0; 32] };
            let Ok(judged) = rules.judge(vouched, 1000) else { return Ok(()) };
            let who = judged.identity;
            prop_assert!(before["aud"] == "us" || before["aud"].as_array().unwrap().contains(&json!("us")));
            prop_assert!(before["exp"].as_f64().unwrap() > 999.0);
            prop_assert!(before.get("nbf").is_none_or(|nbf| nbf.as_f64().unwrap() < 1001.0));
            prop_assert!(before.get("cnf").is_none_or(Value::is_null));
            let own = who.subject.strip_prefix(prefix).unwrap();
            prop_assert!(!own.is_empty());
            prop_assert_eq!(own.starts_with(CLIENT_PREFIX), who.is_client);
            prop_assert!(!prefix.is_empty() || !who.subject.starts_with("partner:"));
            if who.is_client {
                // Nobody becomes a client other than the one that the token was issued to.
                let client = who.client.clone().unwrap();
                prop_assert_eq!(own, format!("client:{client}"));
                let named = ["azp", "client_id", "cid", "appid"].iter().find_map(|name| {
                    before.get(*name).and_then(Value::as_str).filter(|text| !text.is_empty())
                });
                prop_assert!(named.is_none_or(|named| named == client));
            } else {
                prop_assert_eq!(own, before["sub"].as_str().unwrap());
            }
        }
    }
}
