//! Access tokens: what goes into them, who a bearer is.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::model::{Client, Keycloak, MASTER, Realm, User, mappers, new_id};
use super::refusal::Refusal;
use super::scopes::{mapped_audience, resolves_audiences};
use crate::idp::Alg;
use crate::jose;
use crate::server::Recorded;

/// A token to issue.
pub(super) struct Grant<'a> {
    pub(super) realm: &'a str,
    /// Whom it is issued to, by client id.
    pub(super) client: &'a str,
    /// Whom it is about, by id.
    pub(super) user: &'a str,
    /// As requested.
    pub(super) scope: &'a str,
    /// Only these audiences; empty: all.
    pub(super) audiences: &'a [String],
}

/// A token that was issued.
pub(super) struct Issued {
    pub(super) token: String,
    pub(super) scope: String,
    pub(super) audiences: BTreeSet<String>,
    pub(super) lifespan: i64,
}

impl Keycloak {
    /// Issues an access token; the scope is checked, audiences are those of the client's mappers.
    pub(super) fn issue(&mut self, grant: &Grant<'_>) -> Result<Issued, Refusal> {
        let (now, issuer) = (self.now(), self.issuer(grant.realm));
        let realm = self.existing(grant.realm);
        let client = realm.client(grant.client).ok_or_else(Refusal::invalid_client)?;
        let user = realm.user_by_id(grant.user).ok_or_else(Refusal::invalid_client)?;
        let scope_ids = granted_scopes(realm, client, grant.scope)?;
        let scopes = scope_ids.iter().filter_map(|id| realm.scope(id));
        let shown = scopes.filter(|scope| scope.rep["attributes"]["include.in.token.scope"] != "false");
        let scope = shown.map(|scope| scope.name()).collect::<Vec<_>>().join(" ");
        let roles = roles_in_token(client, user);
        let mut audiences = audiences(realm, client, &scope_ids, &roles);
        if !grant.audiences.is_empty() {
            audiences.retain(|audience| grant.audiences.contains(audience));
        }
        let id = new_id();
        let lifespan = realm.token_lifespan;
        let mut claims = json!({
            "exp": now + lifespan,
            "iat": now,
            "jti": id,
            "iss": issuer,
            "sub": user.id,
            "typ": "Bearer",
            "azp": client.client_id(),
            "acr": "1",
            "scope": scope,
            "preferred_username": user.name,
        });
        match audiences.iter().collect::<Vec<_>>().as_slice() {
            [] => {}
            [one] => claims["aud"] = json!(one),
            many => claims["aud"] = json!(many),
        }
        if !roles.is_empty() {
            claims["resource_access"] =
                roles.into_iter().map(|(owner, roles)| (owner, json!({"roles": roles}))).collect();
        }
        if user.service_account_of.is_some() {
            claims["client_id"] = json!(client.client_id());
        }
        let token = jose::sign(&realm.key, Alg::Rs256, "JWT", &claims);
        realm.live_tokens.insert(id);
        Ok(Issued { token, scope, audiences, lifespan })
    }

    /// The claims of an access token of this realm that still works.
    pub(super) fn access_token(&self, realm: &Realm, token: &str) -> Option<Value> {
        let claims = jose::verify(&realm.jwks(), token)?;
        let id = claims.get("jti")?.as_str()?;
        let alive = claims["typ"] == "Bearer"
            && claims["iss"] == self.issuer(&realm.name)
            && claims["exp"].as_i64()? > self.now()
            && realm.live_tokens.contains(id)
            && realm.user_by_id(claims["sub"].as_str()?).is_some();
        alive.then_some(claims)
    }

    /// The realm and the user of a bearer token of any realm: who calls the admin API.
    pub(super) fn bearer(&self, request: &Recorded) -> Option<(&Realm, &User)> {
        let token = bearer_token(request)?;
        let issuer = jose::claims(token)?;
        let realm = self.realms.values().find(|realm| issuer["iss"] == self.issuer(&realm.name))?;
        let claims = self.access_token(realm, token)?;
        Some((realm, realm.user_by_id(claims["sub"].as_str()?)?))
    }

    /// The roles that a caller has over a realm.
    pub(super) fn rights(&self, request: &Recorded, over: &str) -> Result<Rights, Refusal> {
        let (realm, user) = self.bearer(request).ok_or_else(Refusal::unauthorized)?;
        if !self.realms.contains_key(over) {
            return Err(Refusal::error(404, "Realm not found."));
        }
        match (realm.name.as_str(), user.admin) {
            (MASTER, true) => Ok(Rights::All),
            (name, _) if name == over => Ok(Rights::Roles(user.roles.clone())),
            _ => Err(Refusal::forbidden()),
        }
    }
}

/// What somebody may do in a realm.
pub(super) enum Rights {
    All,
    Roles(BTreeSet<String>),
}

impl Rights {
    /// One of these roles, or all of them.
    pub(super) fn any(&self, wanted: &[&str]) -> bool {
        match self {
            Self::All => true,
            Self::Roles(roles) => {
                roles.contains("realm-admin") || wanted.iter().any(|role| roles.contains(*role))
            }
        }
    }

    /// 403 without one of these roles.
    pub(super) fn require(&self, wanted: &[&str]) -> Result<(), Refusal> {
        if self.any(wanted) { Ok(()) } else { Err(Refusal::forbidden()) }
    }
}

impl Realm {
    /// The keys as published: the one that signs, and one for encryption that no verifier may use.
    pub(super) fn jwks(&self) -> Value {
        let signing = self.key.jwk(true);
        let mut encrypting = signing.clone();
        encrypting["kid"] = json!(format!("{}-enc", self.key.kid()));
        encrypting["use"] = json!("enc");
        encrypting["alg"] = json!("RSA-OAEP");
        json!({"keys": [encrypting, signing]})
    }
}

/// The token of the Authorization header.
pub(super) fn bearer_token(request: &Recorded) -> Option<&str> {
    let (scheme, token) = request.header("authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A client's default scopes and those optional ones that were asked for.
fn granted_scopes(realm: &Realm, client: &Client, requested: &str) -> Result<Vec<String>, Refusal> {
    let mut granted = client.default_scopes.clone();
    for name in requested.split_whitespace().filter(|name| *name != "openid") {
        let known = realm.scope_by_name(name).map(|scope| &scope.id);
        match known {
            Some(id) if client.optional_scopes.contains(id) => granted.push(id.clone()),
            Some(id) if client.default_scopes.contains(id) => {}
            _ => {
                let text = format!("Invalid scopes: {requested}");
                return Err(Refusal::oauth(400, "invalid_scope", &text));
            }
        }
    }
    Ok(granted)
}

/// A user's roles by the client that owns them, as far as this client's scope lets them through.
fn roles_in_token(client: &Client, user: &User) -> Map<String, Value> {
    let mut roles = Map::new();
    if client.flag("fullScopeAllowed") {
        roles.insert("account".to_owned(), json!(["manage-account", "view-profile"]));
        if !user.roles.is_empty() {
            roles.insert("realm-management".to_owned(), json!(user.roles));
        }
    }
    roles
}

fn audiences(
    realm: &Realm,
    client: &Client,
    scope_ids: &[String],
    roles: &Map<String, Value>,
) -> BTreeSet<String> {
    let of_scopes = scope_ids.iter().filter_map(|id| realm.scope(id)).flat_map(|scope| scope.mappers());
    let mut audiences = BTreeSet::new();
    for mapper in mappers(&client.rep).iter().chain(of_scopes) {
        audiences.extend(mapped_audience(mapper).map(str::to_owned));
        if resolves_audiences(mapper) {
            audiences.extend(roles.keys().filter(|owner| *owner != client.client_id()).cloned());
        }
    }
    audiences
}
