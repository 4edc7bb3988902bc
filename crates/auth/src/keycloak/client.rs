//! What a client is to look like, and in what an existing one differs.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use skep_api::secret::Secret;

use super::KeycloakError;

/// Attribute of what we made, and its value.
pub(super) const MARK: &str = "skep.dev/managed-by";
pub(super) const MARK_VALUE: &str = "skep";

/// Attribute that lets a client exchange tokens (standard token exchange, Keycloak 26.2).
const TOKEN_EXCHANGE: &str = "standard.token.exchange.enabled";
/// Attributes of a client that proves itself by an assertion of an identity provider.
const ASSERTION_ISSUER: &str = "jwt.credential.issuer";
const ASSERTION_SUBJECT: &str = "jwt.credential.sub";

/// Longest client id that Keycloak can store, in characters.
const MAX_CLIENT_ID: usize = 255;

/// A client as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSpec {
    /// Its `clientId`; a SPIFFE ID as a rule.
    pub client_id: String,
    /// Its display name, given when it is made. The name of one that exists is never changed.
    pub name: Option<String>,
    /// How it proves itself.
    pub proof: ClientProof,
    /// It may exchange tokens.
    pub token_exchange: bool,
    /// It may send users to log in. A machine has no browser, so that is off as a rule.
    pub standard_flow: bool,
    /// It may take a user's password. Off as a rule.
    pub direct_access_grants: bool,
    /// A scope that puts the client into the audience of others' tokens.
    pub audience_scope: Option<AudienceScope>,
    /// A client of this id that was there before and was not made by us is taken over: it is changed only in what
    /// it can't do without, and its secret is told. False: it is refused ([`KeycloakError::NotOurs`]) and neither
    /// changed nor asked for its secret.
    pub adopt: bool,
}

/// How a client proves itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ClientProof {
    /// By a secret that Keycloak makes.
    #[default]
    Secret,
    /// By a JWT-SVID, which Keycloak checks with the identity provider of this alias (Keycloak 26.4).
    FederatedJwt { identity_provider: String },
}

/// A client scope whose mapper adds the client to the audience of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudienceScope {
    /// Its name, unless a scope of that name is another client's.
    pub name: String,
    /// Its name where the other one is taken.
    pub second_name: String,
    /// Ids that the client had before: a scope that adds one of them is its own, and is changed to the new id.
    pub former: Vec<String>,
    /// It becomes a default scope of the realm, which every client that is made later gets: then every later
    /// client's tokens are good for this one too.
    pub realm_default: bool,
    /// Clients that get it now, by `clientId`.
    pub platform_clients: Vec<String>,
    /// Nothing is said of those of them that are not in the realm.
    pub only_present_clients: bool,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The client's id.
    pub client_id: String,
    /// Its secret; empty for one that proves itself by an assertion.
    pub secret: Secret,
    /// It was not there before.
    pub created: bool,
    /// It was there, and something was put right.
    pub changed: bool,
    /// What is not as it should be without standing in the way, in sentences.
    pub warnings: Vec<String>,
}

impl ClientSpec {
    /// A client that proves itself by a secret, uses its service account and exchanges tokens, and nothing else.
    pub fn new(client_id: impl Into<String>) -> Self {
        Self {
            client_id: client_id.into(),
            name: None,
            proof: ClientProof::Secret,
            token_exchange: true,
            standard_flow: false,
            direct_access_grants: false,
            audience_scope: None,
            adopt: true,
        }
    }

    /// Checks what Keycloak would only answer 500 to.
    pub(super) fn check(&self) -> Result<(), KeycloakError> {
        let reason = match self.client_id.as_str() {
            id if id.trim().is_empty() => "it is empty",
            id if id.chars().count() > MAX_CLIENT_ID => {
                "it has more than 255 characters, which no client id can have"
            }
            id if id.chars().any(char::is_control) => "it has control characters",
            _ => return Ok(()),
        };
        Err(KeycloakError::ClientId { client_id: self.client_id.clone(), reason })
    }

    /// True when it has a secret.
    pub(super) fn has_secret(&self) -> bool {
        self.proof == ClientProof::Secret
    }

    /// The representation that makes it.
    pub(super) fn representation(&self) -> Value {
        let mut fields = self.fields();
        fields.insert("clientId".to_owned(), json!(self.client_id));
        fields.insert("protocol".to_owned(), json!("openid-connect"));
        fields.insert("enabled".to_owned(), json!(true));
        if let Some(name) = &self.name {
            fields.insert("name".to_owned(), json!(name));
        }
        let mut attributes = self.attributes();
        attributes.insert(MARK.to_owned(), json!(MARK_VALUE));
        fields.insert("attributes".to_owned(), Value::Object(attributes));
        Value::Object(fields)
    }

    /// An existing client put right, and the names of what was wrong; `None` when nothing is. All that we have
    /// no opinion of stays: Keycloak takes some of what a representation leaves out for switched off, so it is
    /// the whole that is sent back. The secret is not, since it may be another one by now.
    pub(super) fn corrected(
        &self,
        existing: &Map<String, Value>,
        whose: Whose,
    ) -> Option<(Value, Vec<String>)> {
        let mut whole = existing.clone();
        let mut wrong = Vec::new();
        for (name, wanted) in self.fields() {
            if whole.get(&name) != Some(&wanted) && (whose == Whose::Ours || self.needs(&name)) {
                whole.insert(name.clone(), wanted);
                wrong.push(name);
            }
        }
        let mut attributes = whole.get("attributes").and_then(Value::as_object).cloned().unwrap_or_default();
        for (name, wanted) in self.attributes() {
            if attributes.get(&name) != Some(&wanted) && (whose == Whose::Ours || self.needs(&name)) {
                attributes.insert(name.clone(), wanted);
                wrong.push(name);
            }
        }
        whole.insert("attributes".to_owned(), Value::Object(attributes));
        for computed in ["secret", "access", "registrationAccessToken"] {
            whole.shift_remove(computed);
        }
        (!wrong.is_empty()).then_some((Value::Object(whole), wrong))
    }

    /// What a client of somebody else's has that one of ours would not have, by name.
    pub(super) fn tolerated(&self, existing: &Map<String, Value>) -> Vec<String> {
        let attributes = existing.get("attributes").and_then(Value::as_object);
        let differing = |name: &String, found: Option<&Value>, wanted: &Value| {
            // What is not there is as Keycloak has it when nobody says anything.
            !self.needs(name) && found.is_some_and(|found| found != wanted)
        };
        let fields =
            self.fields().into_iter().filter(|(name, wanted)| differing(name, existing.get(name), wanted));
        let of_attributes = self
            .attributes()
            .into_iter()
            .filter(|(name, wanted)| differing(name, attributes.and_then(|all| all.get(name)), wanted));
        fields.chain(of_attributes).map(|(name, _)| name).collect()
    }

    /// True for what a client can't do without, whoever made it.
    fn needs(&self, name: &str) -> bool {
        match name {
            "publicClient"
            | "bearerOnly"
            | "serviceAccountsEnabled"
            | ASSERTION_ISSUER
            | ASSERTION_SUBJECT => true,
            "clientAuthenticatorType" => !self.has_secret(),
            TOKEN_EXCHANGE => self.token_exchange,
            _ => false,
        }
    }

    fn fields(&self) -> Map<String, Value> {
        let authenticator = match self.proof {
            ClientProof::Secret => "client-secret",
            ClientProof::FederatedJwt { .. } => "federated-jwt",
        };
        [
            ("publicClient", json!(false)),
            ("bearerOnly", json!(false)),
            ("serviceAccountsEnabled", json!(true)),
            ("standardFlowEnabled", json!(self.standard_flow)),
            ("implicitFlowEnabled", json!(false)),
            ("directAccessGrantsEnabled", json!(self.direct_access_grants)),
            ("fullScopeAllowed", json!(false)),
            ("clientAuthenticatorType", json!(authenticator)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// Keycloak's attributes are texts.
    fn attributes(&self) -> Map<String, Value> {
        let mut attributes = Map::new();
        let exchange = if self.token_exchange { "true" } else { "false" };
        attributes.insert(TOKEN_EXCHANGE.to_owned(), json!(exchange));
        if let ClientProof::FederatedJwt { identity_provider } = &self.proof {
            attributes.insert(ASSERTION_ISSUER.to_owned(), json!(identity_provider));
            attributes.insert(ASSERTION_SUBJECT.to_owned(), json!(self.client_id));
        }
        attributes
    }
}

/// Who made a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// We did.
    Ours,
    /// Somebody else, who may need it for something else.
    Theirs,
}

impl Whose {
    /// What a client says of it.
    pub(super) fn of(client: &Map<String, Value>) -> Self {
        match client.get("attributes").and_then(|attributes| attributes.get(MARK)) {
            Some(mark) if mark == MARK_VALUE => Self::Ours,
            _ => Self::Theirs,
        }
    }
}

impl AudienceScope {
    /// The scope of a client of this name (`namespace/server`), called as the original registration called it.
    /// What a scope's name can't have (RFC 6749 §3.3) becomes a dash, as the slash does; so two clients' names can
    /// come to the same, and the second name has a hash of the client's. It is no default of the realm.
    pub fn of(client_name: &str, platform_clients: Vec<String>) -> Self {
        let plain = |letter: char| letter.is_ascii_graphic() && !matches!(letter, '/' | '"' | '\\');
        let name: String =
            client_name.chars().map(|letter| if plain(letter) { letter } else { '-' }).collect();
        let hash = Sha256::digest(client_name.as_bytes());
        let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Self {
            second_name: format!("agent-{name}-{hash}-aud"),
            name: format!("agent-{name}-aud"),
            former: Vec::new(),
            realm_default: false,
            platform_clients,
            only_present_clients: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_new_client_can_do_only_what_a_machine_does() {
        let mut spec = ClientSpec::new("spiffe://a/b");
        spec.name = Some("ns/server".to_owned());
        assert_eq!(
            spec.representation(),
            json!({
                "publicClient": false, "bearerOnly": false, "serviceAccountsEnabled": true,
                "standardFlowEnabled": false, "implicitFlowEnabled": false,
                "directAccessGrantsEnabled": false, "fullScopeAllowed": false,
                "clientAuthenticatorType": "client-secret", "clientId": "spiffe://a/b",
                "protocol": "openid-connect", "enabled": true, "name": "ns/server",
                "attributes": {"standard.token.exchange.enabled": "true", "skep.dev/managed-by": "skep"},
            })
        );
        spec.proof = ClientProof::FederatedJwt { identity_provider: "spire".to_owned() };
        let representation = spec.representation();
        assert_eq!(representation["clientAuthenticatorType"], "federated-jwt");
        assert_eq!(representation["attributes"]["jwt.credential.issuer"], "spire");
        assert_eq!(representation["attributes"]["jwt.credential.sub"], "spiffe://a/b");
    }

    #[test]
    fn a_scope_has_a_name_that_a_scope_can_have() {
        for (client, expected) in [
            ("ns/weather", "agent-ns-weather-aud"),
            ("weather", "agent-weather-aud"),
            ("ns/wetter \u{f6}\"x\\", "agent-ns-wetter---x--aud"),
        ] {
            assert_eq!(AudienceScope::of(client, Vec::new()).name, expected);
        }
        let [one, other] = ["team-a/x", "team/a-x"].map(|name| AudienceScope::of(name, Vec::new()));
        assert_eq!(one.name, other.name);
        assert_eq!(one.second_name, "agent-team-a-x-e7fbb913-aud");
        assert_ne!(one.second_name, other.second_name);
    }

    #[test]
    fn an_id_that_no_client_can_have_is_refused() {
        for (id, fine) in [
            ("spiffe://td/ns/a b/\u{e4}", true),
            (&"x".repeat(255), true),
            (&"x".repeat(256), false),
            (" ", false),
            ("a\nb", false),
        ] {
            assert_eq!(ClientSpec::new(id).check().is_ok(), fine, "{id:?}");
        }
    }

    #[test]
    fn only_what_we_have_an_opinion_of_is_put_right() {
        let spec = ClientSpec::new("c");
        let good = object(spec.representation());
        assert_eq!(spec.corrected(&good, Whose::Ours), None);
        for (field, value, put_right) in [
            ("name", json!("another"), false),
            ("enabled", json!(false), false),
            ("redirectUris", json!(["https://a"]), false),
            ("secret", json!("s"), false),
            ("publicClient", json!(true), true),
            ("fullScopeAllowed", json!(true), true),
            ("standardFlowEnabled", json!(true), true),
            ("clientAuthenticatorType", json!("client-jwt"), true),
            ("attributes", json!({"login_theme": "x"}), true),
            ("attributes", json!({"login_theme": "x", "standard.token.exchange.enabled": "true"}), false),
        ] {
            let mut existing = good.clone();
            existing.insert(field.to_owned(), value.clone());
            existing.insert("secret".to_owned(), json!("s"));
            let corrected = spec.corrected(&existing, Whose::Ours);
            assert_eq!(corrected.is_some(), put_right, "{field} {value}");
            if let Some((whole, wrong)) = corrected {
                assert_eq!(wrong.len(), 1, "{wrong:?}");
                assert!(whole.get("secret").is_none());
                assert_eq!(spec.corrected(&object(whole.clone()), Whose::Ours), None, "{field} {value}");
                if field == "attributes" {
                    assert_eq!(whole["attributes"]["login_theme"], "x");
                }
            }
        }
    }

    #[test]
    fn a_strangers_client_is_changed_only_in_what_it_needs() {
        let mut spec = ClientSpec::new("c");
        let mut theirs = object(spec.representation());
        theirs.insert("attributes".to_owned(), json!({}));
        assert_eq!(
            (Whose::of(&theirs), Whose::of(&object(spec.representation()))),
            (Whose::Theirs, Whose::Ours)
        );
        for (field, value) in [
            ("publicClient", json!(true)),
            ("serviceAccountsEnabled", json!(false)),
            ("standardFlowEnabled", json!(true)),
            ("directAccessGrantsEnabled", json!(true)),
            ("fullScopeAllowed", json!(true)),
            ("clientAuthenticatorType", json!("client-jwt")),
        ] {
            theirs.insert(field.to_owned(), value);
        }
        let (whole, wrong) = spec.corrected(&theirs, Whose::Theirs).unwrap();
        assert_eq!(wrong, ["publicClient", "serviceAccountsEnabled", "standard.token.exchange.enabled"]);
        assert_eq!(whole["fullScopeAllowed"], true);
        assert_eq!(
            spec.tolerated(&object(whole.clone())),
            [
                "standardFlowEnabled",
                "directAccessGrantsEnabled",
                "fullScopeAllowed",
                "clientAuthenticatorType"
            ]
        );
        assert_eq!(spec.corrected(&object(whole.clone()), Whose::Theirs), None);
        // It may exchange tokens if it did before.
        spec.token_exchange = false;
        assert_eq!(spec.corrected(&object(whole.clone()), Whose::Theirs), None);
        spec.proof = ClientProof::FederatedJwt { identity_provider: "spire".to_owned() };
        let (_, wrong) = spec.corrected(&object(whole), Whose::Theirs).unwrap();
        assert_eq!(wrong, ["clientAuthenticatorType", "jwt.credential.issuer", "jwt.credential.sub"]);
    }
}
