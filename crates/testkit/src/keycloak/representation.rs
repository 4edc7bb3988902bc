//! What Keycloak's JSON binding lets through: known fields of the right types, nothing else.

use serde_json::{Map, Value};

use super::refusal::Refusal;
use crate::server::Recorded;

/// A class of representations.
pub(super) struct Representation {
    class: &'static str,
    texts: &'static [&'static str],
    flags: &'static [&'static str],
    numbers: &'static [&'static str],
    lists: &'static [&'static str],
    /// String to string.
    maps: &'static [&'static str],
    /// Anything that is an object.
    objects: &'static [&'static str],
}

pub(super) const CLIENT: Representation = Representation {
    class: "ClientRepresentation",
    texts: &[
        "id",
        "clientId",
        "name",
        "description",
        "type",
        "rootUrl",
        "adminUrl",
        "baseUrl",
        "clientAuthenticatorType",
        "secret",
        "registrationAccessToken",
        "protocol",
        "clientTemplate",
        "origin",
    ],
    flags: &[
        "surrogateAuthRequired",
        "enabled",
        "alwaysDisplayInConsole",
        "bearerOnly",
        "consentRequired",
        "standardFlowEnabled",
        "implicitFlowEnabled",
        "directAccessGrantsEnabled",
        "serviceAccountsEnabled",
        "authorizationServicesEnabled",
        "directGrantsOnly",
        "publicClient",
        "frontchannelLogout",
        "fullScopeAllowed",
        "useTemplateConfig",
        "useTemplateScope",
        "useTemplateMappers",
    ],
    numbers: &["notBefore", "nodeReRegistrationTimeout"],
    lists: &[
        "defaultRoles",
        "redirectUris",
        "webOrigins",
        "protocolMappers",
        "defaultClientScopes",
        "optionalClientScopes",
    ],
    maps: &["attributes", "authenticationFlowBindingOverrides"],
    objects: &["registeredNodes", "authorizationSettings", "access"],
};

pub(super) const SCOPE: Representation = Representation {
    class: "ClientScopeRepresentation",
    texts: &["id", "name", "description", "protocol"],
    flags: &[],
    numbers: &[],
    lists: &["protocolMappers"],
    maps: &["attributes"],
    objects: &[],
};

pub(super) const MAPPER: Representation = Representation {
    class: "ProtocolMapperRepresentation",
    texts: &["id", "name", "protocol", "protocolMapper", "consentText"],
    flags: &["consentRequired"],
    numbers: &[],
    lists: &[],
    maps: &["config"],
    objects: &[],
};

pub(super) const INITIAL_ACCESS: Representation = Representation {
    class: "ClientInitialAccessCreatePresentation",
    texts: &[],
    flags: &[],
    numbers: &["expiration", "count"],
    lists: &["webOrigins"],
    maps: &[],
    objects: &[],
};

pub(super) const IDENTITY_PROVIDER: Representation = Representation {
    class: "IdentityProviderRepresentation",
    texts: &[
        "alias",
        "displayName",
        "internalId",
        "providerId",
        "updateProfileFirstLoginMode",
        "firstBrokerLoginFlowAlias",
        "postBrokerLoginFlowAlias",
        "organizationId",
    ],
    flags: &[
        "enabled",
        "trustEmail",
        "storeToken",
        "addReadTokenRoleOnCreate",
        "authenticateByDefault",
        "linkOnly",
        "hideOnLogin",
        "updateProfileFirstLogin",
    ],
    numbers: &[],
    lists: &["types"],
    maps: &["config"],
    objects: &[],
};

impl Representation {
    /// The body of a request, bound to this class.
    pub(super) fn read(&self, request: &Recorded) -> Result<Map<String, Value>, Refusal> {
        require_json(request)?;
        let Ok(Value::Object(rep)) = serde_json::from_slice(&request.body) else {
            return Err(Refusal::error(400, "Cannot parse the JSON"));
        };
        self.check(&rep)?;
        Ok(rep)
    }

    /// Every field is known and its value can be bound.
    pub(super) fn check(&self, rep: &Map<String, Value>) -> Result<(), Refusal> {
        for (field, value) in rep {
            let has = |fields: &[&str]| fields.contains(&field.as_str());
            let bound = match value {
                Value::Null => self.knows(field),
                Value::String(_) => has(self.texts),
                Value::Bool(_) => has(self.flags) || has(self.texts),
                Value::Number(_) => has(self.numbers) || has(self.texts),
                Value::Array(_) => has(self.lists),
                Value::Object(map) => {
                    if let Some((key, _)) = map.iter().find(|(_, v)| has(self.maps) && !Self::is_text(v)) {
                        return Err(Self::not_text(key));
                    }
                    has(self.maps) || has(self.objects)
                }
            };
            if !self.knows(field) {
                let text = format!(
                    "Unrecognized field \"{field}\" (class org.keycloak.representations.idm.{}), not marked as ignorable",
                    self.class
                );
                return Err(Refusal::error(400, &text));
            }
            if !bound {
                return Err(Refusal::error(400, &format!("Cannot deserialize value of field \"{field}\"")));
            }
        }
        Ok(())
    }

    /// What binds to a string.
    pub(super) fn is_text(value: &Value) -> bool {
        !value.is_array() && !value.is_object()
    }

    pub(super) fn not_text(key: &str) -> Refusal {
        Refusal::error(400, &format!("Cannot deserialize value of type `java.lang.String` at \"{key}\""))
    }

    fn knows(&self, field: &str) -> bool {
        [self.texts, self.flags, self.numbers, self.lists, self.maps, self.objects]
            .iter()
            .any(|fields| fields.contains(&field))
    }
}

/// 415 for a body that is not said to be JSON.
pub(super) fn require_json(request: &Recorded) -> Result<(), Refusal> {
    require_type(request, "application/json")
}

/// 415 for a body that is not said to be of this type.
pub(super) fn require_type(request: &Recorded, wanted: &str) -> Result<(), Refusal> {
    let said = request.header("content-type").unwrap_or_default();
    let essence = said.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(wanted) {
        Ok(())
    } else {
        Err(Refusal::error(415, "HTTP 415 Unsupported Media Type"))
    }
}
