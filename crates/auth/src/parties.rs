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

/// Reads the client out of the claims. There is no one way to tell a client's own token from a user's, so
/// each provider's way is known.
pub(crate) fn party(claims: &Map<String, Value>) -> Party {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let subject = text("sub");
    let named = ["azp", "client_id", "cid", "appid"].into_iter().find_map(text);
    let is_subject = |name: &str| subject.is_some() && text(name) == subject;
    // Microsoft Entra: `idtyp`, which is optional; without it, an application's token has its own object
    // as its subject and no delegated scopes.
    let entra = text("idtyp") == Some("app")
        || (claims.contains_key("tid")
            && !claims.contains_key("scp")
            && (text("azp").is_some() || text("appid").is_some())
            && is_subject("oid"));
    // Keycloak: the user behind a service account is named after its client. A user can take such a name
    // only where the client has no service account.
    let keycloak = text("preferred_username")
        .and_then(|name| name.strip_prefix(KEYCLOAK_SERVICE_ACCOUNT))
        .is_some_and(|owner| named.is_some_and(|client| client.eq_ignore_ascii_case(owner)));
    let auth0 = text("gty") == Some("client-credentials");
    // RFC 9068 §2.2 and Okta: the subject is the client.
    let same = is_subject("client_id") || is_subject("cid") || is_subject("azp");
    let from_subject = || subject.map(|subject| subject.strip_suffix(AUTH0_CLIENT).unwrap_or(subject));
    let for_itself = entra || keycloak || auth0 || same;
    let client = if for_itself { named.or_else(from_subject) } else { named };
    Party { client: client.map(str::to_owned), for_itself }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_client_that_calls_for_itself_is_told_from_a_user() {
        for (claims, client, for_itself) in [
            (json!({"sub": "u"}), None, false),
            (json!({"sub": "u", "azp": "app"}), Some("app"), false),
            (json!({"sub": "u", "client_id": "app"}), Some("app"), false),
            (json!({"sub": "u", "cid": "app"}), Some("app"), false),
            (json!({"sub": "u", "appid": "app"}), Some("app"), false),
            (json!({"sub": "u", "azp": "first", "client_id": "second"}), Some("first"), false),
            // Microsoft Entra.
            (json!({"sub": "o", "oid": "o", "tid": "t", "azp": "app", "idtyp": "app"}), Some("app"), true),
            (json!({"sub": "o", "oid": "o", "tid": "t", "appid": "app"}), Some("app"), true),
            (json!({"sub": "o", "oid": "o", "tid": "t", "azp": "app", "scp": "x"}), Some("app"), false),
            (json!({"sub": "s", "oid": "o", "tid": "t", "azp": "app"}), Some("app"), false),
            (json!({"sub": "u", "tid": "t", "azp": "app", "idtyp": "user"}), Some("app"), false),
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
            assert_eq!(party(claims.as_object().unwrap()), expected, "{claims}");
        }
    }
}
