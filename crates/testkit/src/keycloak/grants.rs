//! The token endpoint: who the client is, and what it is granted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::model::{Client, Keycloak, Realm, new_id};
use super::refusal::Refusal;
use super::representation::require_type;
use super::tokens::{Grant, Issued};
use crate::jose;
use crate::server::{Recorded, Reply};

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";
/// Client assertions that last longer are refused, in seconds.
const LONGEST_ASSERTION: i64 = 300;
/// How long a session lives that nobody goes on with, in seconds.
const SESSION: i64 = 1800;

/// Answers a request for a token.
pub(super) fn token(keycloak: &mut Keycloak, realm: &str, request: &Recorded) -> Result<Reply, Refusal> {
    require_type(request, "application/x-www-form-urlencoded")?;
    let form = Form(request.form());
    let grant_type = form.required("grant_type")?;
    let client_id = authenticate(keycloak, keycloak.realms.get(realm), request, &form)?;
    let client = Caller { realm, client_id: &client_id };
    let answer = match grant_type {
        "client_credentials" => client_credentials(keycloak, client, &form),
        "password" => password(keycloak, client, &form),
        "refresh_token" => refresh(keycloak, client, &form),
        EXCHANGE => exchange(keycloak, client, &form),
        _ => Err(Refusal::oauth(400, "unsupported_grant_type", "Unsupported grant_type")),
    }?;
    Ok(Reply::json(&answer).header("Cache-Control", "no-store").header("Pragma", "no-cache"))
}

/// A client that proved who it is (or is public).
#[derive(Clone, Copy)]
struct Caller<'a> {
    realm: &'a str,
    client_id: &'a str,
}

struct Form(Vec<(String, String)>);

impl Form {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(field, _)| field == name).map(|(_, value)| value.clone()).collect()
    }

    fn required(&self, name: &str) -> Result<&str, Refusal> {
        let missing = || Refusal::oauth(400, "invalid_request", &format!("Missing form parameter: {name}"));
        self.get(name).ok_or_else(missing)
    }
}

fn authenticate(
    keycloak: &Keycloak,
    realm: Option<&Realm>,
    request: &Recorded,
    form: &Form,
) -> Result<String, Refusal> {
    let realm = realm.ok_or_else(|| Refusal::error(404, "Realm does not exist"))?;
    if form.get("client_assertion_type").is_some() {
        return by_assertion(keycloak, realm, form).ok_or_else(Refusal::invalid_client);
    }
    let (client_id, secret) = match basic(request) {
        Some((client_id, secret)) => (client_id, Some(secret)),
        None => {
            let client_id = form.get("client_id").ok_or_else(Refusal::invalid_client)?;
            (client_id.to_owned(), form.get("client_secret").map(str::to_owned))
        }
    };
    let client = realm.client(&client_id).filter(|client| client.flag("enabled"));
    let client = client.ok_or_else(Refusal::invalid_client)?;
    let proven = client.flag("publicClient")
        || client.is_confidential()
            && client.text("clientAuthenticatorType") == "client-secret"
            && secret.is_some_and(|secret| secret == client.text("secret"));
    if proven { Ok(client_id) } else { Err(Refusal::invalid_client()) }
}

/// Both halves are form-encoded before they are joined (RFC 6749 §2.3.1); an id with a colon that is not is cut.
fn basic(request: &Recorded) -> Option<(String, String)> {
    let (scheme, rest) = request.header("authorization")?.split_once(' ')?;
    let text = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':').filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let decode = |part: &str| {
        let pair = format!("x={part}");
        url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned())
    };
    Some((decode(id)?, decode(secret)?))
}

/// A JWT-SVID as client assertion: found by its subject, verified with the identity provider's keys, for this
/// realm and nobody else.
fn by_assertion(keycloak: &Keycloak, realm: &Realm, form: &Form) -> Option<String> {
    let assertion =
        form.get("client_assertion").filter(|_| form.get("client_assertion_type") == Some(JWT_SPIFFE))?;
    let claims = jose::claims(assertion)?;
    let subject = claims["sub"].as_str()?;
    let client = realm.clients.iter().find(|client| client.attribute("jwt.credential.sub") == subject)?;
    let alias = client.attribute("jwt.credential.issuer");
    let provider = realm.identity_providers.iter().find(|one| one["alias"] == alias)?;
    let domain = provider["config"]["trustDomain"].as_str()?;
    let keys = serde_json::from_str(provider["config"]["bundle"].as_str()?).ok()?;
    jose::verify(&keys, assertion)?;
    let audience = match &claims["aud"] {
        Value::Array(audiences) => <&[Value; 1]>::try_from(audiences.as_slice()).ok()?[0].as_str()?,
        audience => audience.as_str()?,
    };
    let left = claims["exp"].as_i64()? - keycloak.now();
    let fits = client.flag("enabled")
        && client.text("clientAuthenticatorType") == "federated-jwt"
        && subject.starts_with(&format!("{domain}/"))
        && audience == keycloak.issuer(&realm.name)
        && (1..=LONGEST_ASSERTION).contains(&left)
        && form.get("client_id").is_none_or(|given| given == client.client_id());
    fits.then(|| client.client_id().to_owned())
}

fn client_credentials(keycloak: &mut Keycloak, caller: Caller<'_>, form: &Form) -> Result<Value, Refusal> {
    let realm = keycloak.existing(caller.realm);
    let client = realm.client(caller.client_id).ok_or_else(Refusal::invalid_client)?;
    let refused = |text: &str| Err(Refusal::oauth(401, "unauthorized_client", text));
    if client.flag("publicClient") {
        return refused("Public client not allowed to retrieve service account");
    }
    let Some(user) = realm.service_account(client).map(|user| user.id.clone()) else {
        return refused("Client not enabled to retrieve service account");
    };
    issue(keycloak, caller, form, &user, &[]).map(|issued| answer(&issued))
}

fn password(keycloak: &mut Keycloak, caller: Caller<'_>, form: &Form) -> Result<Value, Refusal> {
    let realm = keycloak.existing(caller.realm);
    let client = realm.client(caller.client_id).ok_or_else(Refusal::invalid_client)?;
    if !client.flag("directAccessGrantsEnabled") {
        let text = "Client not allowed for direct access grants";
        return Err(Refusal::oauth(400, "unauthorized_client", text));
    }
    let name = form.required("username")?;
    let known = realm.user(name).filter(|user| user.password.is_some());
    let user = known.filter(|user| user.password.as_deref() == form.get("password"));
    let user = user.map(|user| user.id.clone());
    let user = user.ok_or_else(|| Refusal::oauth(401, "invalid_grant", "Invalid user credentials"))?;
    session(keycloak, caller, form, &user, &new_id())
}

/// A session goes on: its user gets another access token.
fn refresh(keycloak: &mut Keycloak, caller: Caller<'_>, form: &Form) -> Result<Value, Refusal> {
    let invalid = |text: &str| Refusal::oauth(400, "invalid_grant", text);
    let token = form.required("refresh_token")?;
    let now = keycloak.now();
    let realm = keycloak.existing(caller.realm);
    let claims = jose::unseal(&realm.sealing, token).filter(|claims| claims["typ"] == "Refresh");
    let claims = claims.ok_or_else(|| invalid("Invalid refresh token"))?;
    if claims["exp"].as_i64().is_none_or(|exp| exp <= now) {
        return Err(invalid("Token is not active"));
    }
    if claims["azp"] != caller.client_id {
        return Err(invalid("Invalid refresh token. Token client and authorized client don't match"));
    }
    let text = |name: &str| claims[name].as_str().unwrap_or_default().to_owned();
    let (user, sid) = (text("sub"), text("sid"));
    if !realm.live_tokens.contains(&text("jti")) || realm.user_by_id(&user).is_none() {
        return Err(invalid("Session not active"));
    }
    session(keycloak, caller, form, &user, &sid)
}

/// An access token of a session and the refresh token with which it goes on.
fn session(
    keycloak: &mut Keycloak,
    caller: Caller<'_>,
    form: &Form,
    user: &str,
    sid: &str,
) -> Result<Value, Refusal> {
    let issued = issue(keycloak, caller, form, user, &[])?;
    let mut body = answer(&issued);
    let (now, id) = (keycloak.now(), new_id());
    let realm = keycloak.existing(caller.realm);
    let refresh = json!({
        "exp": now + SESSION, "iat": now, "jti": id, "typ": "Refresh", "sub": user, "azp": caller.client_id,
        "sid": sid,
    });
    body["refresh_expires_in"] = json!(SESSION);
    body["refresh_token"] = json!(jose::seal(&realm.sealing, &refresh));
    body["session_state"] = json!(sid);
    realm.live_tokens.insert(id);
    Ok(body)
}

/// Standard token exchange, version 2: the subject token is of this realm and was meant for the client, and what
/// comes out is never for more than the client's own scopes allow.
fn exchange(keycloak: &mut Keycloak, caller: Caller<'_>, form: &Form) -> Result<Value, Refusal> {
    let invalid = |text: &str| Refusal::oauth(400, "invalid_request", text);
    for parameter in ["requested_subject", "requested_issuer", "subject_issuer"] {
        if form.get(parameter).is_some() {
            let text = format!("Parameter '{parameter}' is not supported for standard token exchange");
            return Err(invalid(&text));
        }
    }
    let realm = keycloak.realms.get(caller.realm).ok_or_else(Refusal::invalid_client)?;
    let client = realm.client(caller.client_id).ok_or_else(Refusal::invalid_client)?;
    if client.attribute("standard.token.exchange.enabled") != "true" {
        return Err(invalid("Standard token exchange is not enabled for the requested client"));
    }
    let required = |name: &str| {
        let text = format!("Parameter '{name}' required for standard token exchange");
        form.get(name).ok_or_else(|| invalid(&text))
    };
    let subject_token = required("subject_token")?;
    if required("subject_token_type")? != ACCESS_TOKEN {
        return Err(invalid("Parameter 'subject_token' supports access tokens only"));
    }
    let subject = keycloak.access_token(realm, subject_token).ok_or_else(|| invalid("Invalid token"))?;
    let requested_type = form.get("requested_token_type").unwrap_or(ACCESS_TOKEN);
    if requested_type != ACCESS_TOKEN {
        return Err(invalid("requested_token_type unsupported"));
    }
    let audiences = form.all("audience");
    if audiences.iter().any(|audience| realm.client(audience).is_none()) {
        return Err(Refusal::oauth(400, "invalid_client", "Audience not found"));
    }
    if client.flag("publicClient") {
        let text = "Public client is not allowed to exchange token";
        return Err(Refusal::oauth(400, "invalid_client", text));
    }
    if audiences.iter().filter_map(|audience| realm.client(audience)).any(|target| !target.flag("enabled")) {
        return Err(Refusal::oauth(400, "invalid_client", "Client disabled"));
    }
    if subject["azp"] != caller.client_id && !is_for(&subject["aud"], client) {
        let text = "Client is not within the token audience";
        return Err(Refusal::oauth(403, "access_denied", text));
    }
    let user = subject["sub"].as_str().unwrap_or_default().to_owned();
    let issued = issue(keycloak, caller, form, &user, &audiences)?;
    let missing: Vec<_> = audiences.into_iter().filter(|one| !issued.audiences.contains(one)).collect();
    if !missing.is_empty() {
        return Err(invalid(&format!("Requested audience not available: {}", missing.join(", "))));
    }
    let mut body = answer(&issued);
    body["issued_token_type"] = json!(ACCESS_TOKEN);
    Ok(body)
}

fn is_for(audience: &Value, client: &Client) -> bool {
    let wanted = client.client_id();
    audience == wanted || audience.as_array().is_some_and(|all| all.iter().any(|one| one == wanted))
}

fn issue(
    keycloak: &mut Keycloak,
    caller: Caller<'_>,
    form: &Form,
    user: &str,
    audiences: &[String],
) -> Result<Issued, Refusal> {
    let scope = form.get("scope").unwrap_or_default();
    keycloak.issue(&Grant { realm: caller.realm, client: caller.client_id, user, scope, audiences })
}

fn answer(issued: &Issued) -> Value {
    json!({
        "access_token": issued.token,
        "expires_in": issued.lifespan,
        "refresh_expires_in": 0,
        "token_type": "Bearer",
        "not-before-policy": 0,
        "scope": issued.scope,
    })
}
