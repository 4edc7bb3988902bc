//! Which client a token was issued to, and whether that client calls for itself.

use serde_json::{Map, Value};

/// What Keycloak puts before the client's id in the name of a service account.
const KEYCLOAK_SERVICE_ACCOUNT: &str = "service-account-";

/// What Auth0 puts after the client's id in the subject of a client's own token.
const AUTH0_CLIENT: &str = "@clients";

/// The client of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Party {
    /// Its id, where the token names it.
    pub(crate) client: Option<String>,
    /// It calls for itself (RFC 6749 §4.4), with no user behind it.
    pub(crate) for_itself: bool,
}

/// Reads the client out of the claims of `issuer`. There is no one way to tell a client's own token from a
/// user's, so each provider's way is known. Other providers may let users choose claims of those names, so
/// each sign counts only together with something that users can't choose.
pub(crate) fn party(issuer: &str, claims: &Map<String, Value>) -> Party {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let subject = text("sub");
    let named = ["azp", "client_id", "cid", "appid"].into_iter().find_map(text);
    // RFC 9068 §2.2, Okta, Google: the subject is the client.
    let same = subject.is_some() && named == subject;
    let for_itself =
        same || is_entra_app(issuer, claims) || is_keycloak_service_account(issuer, claims, named);
    let auth0 = auth0_client(claims).filter(|client| named.is_none_or(|named| named == *client));
    let client = if for_itself { named.or(subject) } else { named.or(auth0) };
    Party { client: client.map(str::to_owned), for_itself: for_itself || auth0.is_some() }
}

/// Microsoft Entra: `idtyp`, which is optional; without it, an application's token has its own object as its
/// subject and no delegated scopes. Every issuer of Entra's has the id of the tenant in its path.
fn is_entra_app(issuer: &str, claims: &Map<String, Value>) -> bool {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let of_tenant = text("tid").is_some_and(|tenant| is_guid(tenant) && has_segment(issuer, tenant));
    let own_object = || {
        let names_client = text("azp").is_some() || text("appid").is_some();
        !claims.contains_key("scp") && names_client && text("oid").is_some() && text("oid") == text("sub")
    };
    of_tenant && (text("idtyp") == Some("app") || own_object())
}

/// Keycloak: the user behind a service account is named after its client. A user can take such a name where
/// the client has no service account, but a user's token comes from a login, and so has a session; that of a
/// service account has none or names the client a second time.
fn is_keycloak_service_account(issuer: &str, claims: &Map<String, Value>, client: Option<&str>) -> bool {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let owner = text("preferred_username").and_then(|name| name.strip_prefix(KEYCLOAK_SERVICE_ACCOUNT));
    let named_after = match (owner, client) {
        (Some(owner), Some(client)) => client.eq_ignore_ascii_case(owner),
        _ => false,
    };
    let logged_in = ["sid", "session_state", "auth_time"].iter().any(|name| claims.contains_key(*name));
    named_after && has_segment(issuer, "realms") && (!logged_in || text("client_id") == client)
}

/// Auth0: the kind of grant, and a subject that no user has.
fn auth0_client(claims: &Map<String, Value>) -> Option<&str> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let client = text("sub")?.strip_suffix(AUTH0_CLIENT).filter(|client| !client.is_empty());
    client.filter(|_| text("gty") == Some("client-credentials"))
}

fn has_segment(issuer: &str, segment: &str) -> bool {
    let url = url::Url::parse(issuer).ok();
    url.as_ref().and_then(url::Url::path_segments).is_some_and(|mut all| all.any(|one| one == segment))
}

fn is_guid(text: &str) -> bool {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_client_that_calls_for_itself_is_told_from_a_user() {
        const TENANT: &str = "5f0c2a1e-0000-4000-8000-00000000c0de";
        for (claims, client, for_itself) in [
            (json!({"sub": "u"}), None, false),
            (json!({"sub": "u", "azp": "app"}), Some("app"), false),
            (json!({"sub": "u", "client_id": "app"}), Some("app"), false),
            (json!({"sub": "u", "cid": "app"}), Some("app"), false),
            (json!({"sub": "u", "appid": "app"}), Some("app"), false),
            (json!({"sub": "u", "azp": "first", "client_id": "second"}), Some("first"), false),
            // Microsoft Entra.
            (json!({"sub": "o", "oid": "o", "tid": TENANT, "azp": "app", "idtyp": "app"}), Some("app"), true),
            (json!({"sub": "o", "oid": "o", "tid": TENANT, "appid": "app"}), Some("app"), true),
            (json!({"sub": "o", "oid": "o", "tid": TENANT, "azp": "app", "scp": "x"}), Some("app"), false),
            (json!({"sub": "s", "oid": "o", "tid": TENANT, "azp": "app"}), Some("app"), false),
            (json!({"sub": "u", "tid": TENANT, "azp": "app", "idtyp": "user"}), Some("app"), false),
            // Keycloak.
            (
                json!({"sub": "id", "azp": "Bot", "preferred_username": "service-account-bot"}),
                Some("Bot"),
                true,
            ),
            (
                json!({"sub": "id", "azp": "web", "preferred_username": "service-account-bot"}),
                Some("web"),
                false,
            ),
            (json!({"sub": "id", "preferred_username": "service-account-bot"}), None, false),
            // Okta, Auth0, RFC 9068, and who follows them.
            (json!({"sub": "app", "cid": "app"}), Some("app"), true),
            (json!({"sub": "app@clients", "azp": "app", "gty": "client-credentials"}), Some("app"), true),
            (json!({"sub": "app@clients", "gty": "client-credentials"}), Some("app"), true),
            (json!({"sub": "auth0|u", "azp": "app", "gty": "password"}), Some("app"), false),
            (json!({"sub": "app", "client_id": "app"}), Some("app"), true),
            (json!({"sub": "app", "azp": "app"}), Some("app"), true),
            (json!({"sub": "", "azp": ""}), None, false),
            (json!({"azp": 7}), None, false),
        ] {
            let expected = Party { client: client.map(str::to_owned), for_itself };
            let issuer = match claims.get("tid") {
                Some(_) => format!("https://sts.example/{TENANT}/"),
                None => "https://sso.example/auth/realms/company".to_owned(),
            };
            assert_eq!(party(&issuer, claims.as_object().unwrap()), expected, "{claims}");
        }
    }
}
