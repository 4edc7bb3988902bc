//! What the environment says.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use skep_api::address::{Egress, is_in_the_clear};
use skep_api::secret::Secret;
use skep_auth::keycloak::{AudienceScope, ClientProof, ClientSpec, KeycloakSettings, Login};
use skep_auth::spiffe::RetryTimes;
use url::Url;

use super::SettingsError;

/// Where `/healthz`, `/readyz` and `/status` are served when nobody says otherwise.
pub const DEFAULT_HEALTH_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 8082);

/// How long a client that only this pod can remove outlives the signal to end, where nobody says otherwise: the
/// server gets that signal at the same time, and finishes what it is at.
pub const DEFAULT_DELAY: Duration = Duration::from_secs(10);
/// How long the rest of the end may take: a round that runs, a client that is removed, files that are written.
const GRACE: Duration = Duration::from_secs(15);

/// How often Keycloak is asked whether all is as it was.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

const KEYCLOAK_URL: &str = "KEYCLOAK_URL";
const KEYCLOAK_REALM: &str = "KEYCLOAK_REALM";
const TOKEN_URL: &str = "TOKEN_URL";
const ADMIN_USERNAME: &str = "KEYCLOAK_ADMIN_USERNAME";
const ADMIN_PASSWORD: &str = "KEYCLOAK_ADMIN_PASSWORD";
const ADMIN_REALM: &str = "KEYCLOAK_ADMIN_REALM";
const CLIENT_NAME: &str = "CLIENT_NAME";
const AUTH_TYPE: &str = "CLIENT_AUTH_TYPE";
const INTERVAL: &str = "REGISTRATION_INTERVAL_SECONDS";
const DELAY: &str = "DEREGISTER_DELAY_SECONDS";
const HEALTH_ADDRESS: &str = "HEALTH_ADDRESS";

/// What follows the realm in the URL of a token endpoint.
const TOKEN_PATH: &str = "/protocol/openid-connect/token";
/// The platform's own client, which calls every server.
const PLATFORM_CLIENT: &str = "kagenti";

/// How to register, and where to put what comes of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// False: nothing is registered (KEYCLOAK_CLIENT_REGISTRATION_ENABLED=false).
    pub enabled: bool,
    /// Where Keycloak is.
    pub keycloak: KeycloakSettings,
    /// A file with further CA certificates, PEM; read again when it changes.
    pub ca_file: Option<PathBuf>,
    /// As whom we come.
    pub credentials: Credentials,
    /// Who is registered.
    pub identity: IdentitySource,
    /// The client's name, `namespace/server`.
    pub client_name: String,
    /// How it proves itself.
    pub proof: ClientProof,
    /// It may exchange tokens.
    pub token_exchange: bool,
    /// It may send users to log in.
    pub standard_flow: bool,
    /// It may take users' passwords.
    pub direct_access_grants: bool,
    /// Whether an audience scope is made. Where nobody says: yes, unless the login can't.
    pub audience_scope: Option<bool>,
    /// Clients that get the audience scope at once; none given: the platform's, where it is.
    pub platform_clients: Option<Vec<String>>,
    /// The audience scope becomes a default of the realm: every client that is made later gets it.
    pub audience_realm_default: bool,
    /// Where the credentials go.
    pub files: OutputFiles,
    /// Private folder for the token with which a client is managed that an initial access token registered.
    pub state_folder: PathBuf,
    /// Where health is served.
    pub health_address: Option<SocketAddr>,
    /// How often Keycloak is asked whether all is as it was; up to a tenth less each time.
    pub interval: Duration,
    /// Pauses after failures.
    pub retry: RetryTimes,
    /// Whether the client is removed at the end. Where nobody says: only one that was registered with an initial
    /// access token, since the next pod could not take it over.
    pub deregister_on_exit: Option<bool>,
    /// How long the client that is to be removed stays after the signal to end. Where nobody says: ten seconds for
    /// one that was registered with an initial access token, else none.
    pub deregister_delay: Option<Duration>,
}

/// Where the login is.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// A folder with a login (see [`Login::read`]); what it holds counts before `given`, and is read again when it
    /// changes.
    pub folder: Option<PathBuf>,
    /// An administrator from the environment.
    pub given: Option<Login>,
}

/// Who is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    /// The subject of this JWT-SVID, verified with this JWT bundle.
    Svid { token: PathBuf, bundle: PathBuf },
    /// A name that proves nothing (SPIRE_ENABLED=false).
    Name(String),
}

/// Where the client's credentials go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFiles {
    /// The client's id.
    pub client_id: PathBuf,
    /// Its secret, in each of these: the name of today, and the one of old.
    pub secrets: Vec<PathBuf>,
    /// Is there once the others are.
    pub ready: Option<PathBuf>,
}

impl Settings {
    /// Reads the environment. An empty variable is one that is not set. `NAMESPACE` is accepted and not needed.
    ///
    /// | variable | default |
    /// |---|---|
    /// | KEYCLOAK_URL, KEYCLOAK_REALM | what TOKEN_URL says |
    /// | KEYCLOAK_ADMIN_USERNAME, KEYCLOAK_ADMIN_PASSWORD, KEYCLOAK_ADMIN_REALM | none, none, `master` |
    /// | CREDENTIALS_DIR | none |
    /// | KEYCLOAK_CA_FILE | none |
    /// | CLIENT_NAME | required |
    /// | CLIENT_AUTH_TYPE (`client-secret`, `federated-jwt`), SPIFFE_IDP_ALIAS | `client-secret`, `spire-spiffe` |
    /// | KEYCLOAK_TOKEN_EXCHANGE_ENABLED, KEYCLOAK_CLIENT_REGISTRATION_ENABLED | true, true |
    /// | KEYCLOAK_STANDARD_FLOW_ENABLED, KEYCLOAK_DIRECT_ACCESS_GRANTS_ENABLED | false, false |
    /// | KEYCLOAK_AUDIENCE_SCOPE_ENABLED, PLATFORM_CLIENT_IDS | see [`Settings`] |
    /// | KEYCLOAK_AUDIENCE_REALM_DEFAULT | false |
    /// | SPIRE_ENABLED, JWT_SVID_FILE, JWT_BUNDLE_FILE | true, `/opt/jwt_svid.token`, `/opt/jwt_bundle.json` |
    /// | SECRET_FILE_PATH, READY_FILE | `/shared/client-secret.txt`, none |
    /// | STATE_DIR | `/var/lib/skep-registration` |
    /// | HEALTH_ADDRESS | `:8082`; `0`: none |
    /// | REGISTRATION_INTERVAL_SECONDS | 60 |
    /// | DEREGISTER_ON_EXIT, DEREGISTER_DELAY_SECONDS | see [`Settings`] |
    ///
    /// # Errors
    /// All that is missing, or the first thing that is wrong.
    pub fn from_env(env: &BTreeMap<String, String>) -> Result<Self, SettingsError> {
        let env = Env(env);
        let enabled = env.switch("KEYCLOAK_CLIENT_REGISTRATION_ENABLED")?.unwrap_or(true);
        let (url, realm) = place(&env)?;
        let client_name = env.get(CLIENT_NAME);
        let missing: Vec<&'static str> = [
            (KEYCLOAK_URL, url.is_none()),
            (KEYCLOAK_REALM, realm.is_none()),
            (CLIENT_NAME, client_name.is_none()),
        ]
        .into_iter()
        .filter_map(|(name, missing)| missing.then_some(name))
        .collect();
        // One that registers nothing needs to know nothing.
        if enabled && !missing.is_empty() {
            return Err(SettingsError::Missing { names: missing });
        }
        let (url, realm) =
            (url.unwrap_or("http://unused.invalid".to_owned()), realm.unwrap_or("unused".to_owned()));
        let mut keycloak = KeycloakSettings::new(&url, &realm).map_err(SettingsError::Keycloak)?;
        // What listens in this pod belongs to whoever wrote the pod.
        keycloak.egress = Egress { loopback: true, deny: Vec::new() };
        if let Some(realm) = env.get(ADMIN_REALM) {
            keycloak.admin_realm = realm.to_owned();
        }
        let client_name = client_name.unwrap_or_default().to_owned();
        let identity = if env.switch("SPIRE_ENABLED")?.unwrap_or(true) {
            IdentitySource::Svid {
                token: env.path("JWT_SVID_FILE", "/opt/jwt_svid.token"),
                bundle: env.path("JWT_BUNDLE_FILE", "/opt/jwt_bundle.json"),
            }
        } else {
            IdentitySource::Name(client_name.clone())
        };
        Ok(Self {
            enabled,
            keycloak,
            ca_file: env.get("KEYCLOAK_CA_FILE").map(PathBuf::from),
            credentials: credentials(&env)?,
            identity,
            client_name,
            proof: proof(&env)?,
            token_exchange: env.switch("KEYCLOAK_TOKEN_EXCHANGE_ENABLED")?.unwrap_or(true),
            standard_flow: env.switch("KEYCLOAK_STANDARD_FLOW_ENABLED")?.unwrap_or(false),
            direct_access_grants: env.switch("KEYCLOAK_DIRECT_ACCESS_GRANTS_ENABLED")?.unwrap_or(false),
            audience_scope: env.switch("KEYCLOAK_AUDIENCE_SCOPE_ENABLED")?,
            platform_clients: env.list("PLATFORM_CLIENT_IDS"),
            audience_realm_default: env.switch("KEYCLOAK_AUDIENCE_REALM_DEFAULT")?.unwrap_or(false),
            files: OutputFiles::beside(
                env.path("SECRET_FILE_PATH", "/shared/client-secret.txt"),
                env.get("READY_FILE").map(PathBuf::from),
            ),
            state_folder: env.path("STATE_DIR", "/var/lib/skep-registration"),
            health_address: health_address(&env)?,
            interval: env
                .seconds(INTERVAL, 1, "no number of seconds from 1 to 86400")?
                .unwrap_or(DEFAULT_INTERVAL),
            retry: RetryTimes::default(),
            deregister_on_exit: env.switch("DEREGISTER_ON_EXIT")?,
            deregister_delay: env.seconds(DELAY, 0, "no number of seconds from 0 to 86400")?,
        })
    }

    /// Where health is served, as an environment says it in which something else is missing or wrong.
    pub fn health_address(env: &BTreeMap<String, String>) -> Option<SocketAddr> {
        health_address(&Env(env)).unwrap_or(Some(DEFAULT_HEALTH_ADDRESS))
    }

    /// What is unwise without standing in the way, in sentences.
    pub fn warnings(&self) -> Vec<String> {
        let url = &self.keycloak.url;
        let clear = self.enabled && is_in_the_clear(url);
        let text = || {
            let host = url.host_str().unwrap_or_default();
            format!(
                "Keycloak at {host} is called by plain http, so everybody on the way reads the login and the client's \
                 secret; use an https URL (KEYCLOAK_URL)"
            )
        };
        clear.then(text).into_iter().collect()
    }

    /// How long the end may take once the signal for it has come.
    pub fn grace(&self) -> Duration {
        GRACE.saturating_add(self.deregister_delay.unwrap_or(DEFAULT_DELAY))
    }

    /// How long the client stays after the signal to end, for a login that comes as `login`.
    pub(super) fn delay(&self, login: &Login) -> Duration {
        self.deregister_delay.unwrap_or(match login {
            Login::InitialAccess(_) => DEFAULT_DELAY,
            Login::Password { .. } | Login::Client { .. } => Duration::ZERO,
        })
    }

    /// The client as it is to be, for this id and a login that comes as `login`. `former` are the ids that this pod
    /// had before.
    pub(super) fn spec(&self, client_id: &str, login: &Login, former: &[String]) -> ClientSpec {
        let scopes_possible = !matches!(login, Login::InitialAccess(_));
        let audience_scope = self.audience_scope.unwrap_or(scopes_possible).then(|| {
            let clients = self.platform_clients.clone();
            let only_present_clients = clients.is_none();
            let clients = clients.unwrap_or_else(|| vec![PLATFORM_CLIENT.to_owned()]);
            AudienceScope {
                only_present_clients,
                realm_default: self.audience_realm_default,
                former: former.to_vec(),
                ..AudienceScope::of(&self.client_name, clients)
            }
        });
        ClientSpec {
            client_id: client_id.to_owned(),
            name: Some(self.client_name.clone()).filter(|name| !name.is_empty()),
            proof: self.proof.clone(),
            token_exchange: self.token_exchange,
            standard_flow: self.standard_flow,
            direct_access_grants: self.direct_access_grants,
            audience_scope,
            adopt: true,
        }
    }
}

impl OutputFiles {
    /// The secret here, and in the same folder `client-id.txt` and, as of old, `secret.txt`.
    pub fn beside(secret: PathBuf, ready: Option<PathBuf>) -> Self {
        let (client_id, of_old) =
            (secret.with_file_name("client-id.txt"), secret.with_file_name("secret.txt"));
        let mut secrets = vec![secret];
        if !secrets.contains(&of_old) {
            secrets.push(of_old);
        }
        Self { client_id, secrets, ready }
    }
}

/// URL and realm of Keycloak, or what the token endpoint's URL says of them.
fn place(env: &Env<'_>) -> Result<(Option<String>, Option<String>), SettingsError> {
    let (mut url, mut realm) =
        (env.get(KEYCLOAK_URL).map(str::to_owned), env.get(KEYCLOAK_REALM).map(str::to_owned));
    if (url.is_none() || realm.is_none())
        && let Some(endpoint) = env.get(TOKEN_URL)
    {
        let (base, named) = taken_apart(endpoint).ok_or_else(|| SettingsError::Value {
            name: TOKEN_URL,
            value: endpoint.to_owned(),
            wanted: "not the URL of a realm's token endpoint (https://HOST/realms/REALM/protocol/openid-connect/token)",
        })?;
        url.get_or_insert(base);
        realm.get_or_insert(named);
    }
    Ok((url, realm))
}

fn taken_apart(endpoint: &str) -> Option<(String, String)> {
    Url::parse(endpoint).ok()?;
    let (base, realm) = endpoint.strip_suffix(TOKEN_PATH)?.rsplit_once("/realms/")?;
    let realm = percent_decoded(realm)?;
    (!realm.is_empty()).then(|| (base.to_owned(), realm))
}

/// A realm's name may have spaces, which a URL writes as `%20`.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn credentials(env: &Env<'_>) -> Result<Credentials, SettingsError> {
    let given = match (env.get(ADMIN_USERNAME), env.get(ADMIN_PASSWORD)) {
        (Some(username), Some(password)) => {
            Some(Login::Password { username: username.to_owned(), password: Secret::new(password) })
        }
        (None, None) => None,
        (Some(_), None) => {
            return Err(SettingsError::Half { present: ADMIN_USERNAME, missing: ADMIN_PASSWORD });
        }
        (None, Some(_)) => {
            return Err(SettingsError::Half { present: ADMIN_PASSWORD, missing: ADMIN_USERNAME });
        }
    };
    Ok(Credentials { folder: env.get("CREDENTIALS_DIR").map(PathBuf::from), given })
}

fn proof(env: &Env<'_>) -> Result<ClientProof, SettingsError> {
    match env.get(AUTH_TYPE) {
        None | Some("client-secret") => Ok(ClientProof::Secret),
        Some("federated-jwt") => Ok(ClientProof::FederatedJwt {
            identity_provider: env.get("SPIFFE_IDP_ALIAS").unwrap_or("spire-spiffe").to_owned(),
        }),
        Some(other) => Err(SettingsError::Value {
            name: AUTH_TYPE,
            value: other.to_owned(),
            wanted: "neither client-secret nor federated-jwt",
        }),
    }
}

fn health_address(env: &Env<'_>) -> Result<Option<SocketAddr>, SettingsError> {
    let Some(text) = env.get(HEALTH_ADDRESS) else { return Ok(Some(DEFAULT_HEALTH_ADDRESS)) };
    if text == "0" {
        return Ok(None);
    }
    let address = match text.strip_prefix(':') {
        Some(port) => port.parse().ok().map(|port: u16| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)),
        None => text.parse().ok(),
    };
    address.map(Some).ok_or_else(|| SettingsError::Value {
        name: HEALTH_ADDRESS,
        value: text.to_owned(),
        wanted: "no address: give one as :8082 or 127.0.0.1:8082, or 0 for none",
    })
}

struct Env<'a>(&'a BTreeMap<String, String>);

impl<'a> Env<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    fn path(&self, name: &str, default: &str) -> PathBuf {
        PathBuf::from(self.get(name).unwrap_or(default))
    }

    /// A number of seconds, from this one to a day.
    fn seconds(
        &self,
        name: &'static str,
        least: u64,
        wanted: &'static str,
    ) -> Result<Option<Duration>, SettingsError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.parse::<u64>() {
            Ok(seconds) if (least..=86_400).contains(&seconds) => Ok(Some(Duration::from_secs(seconds))),
            _ => Err(SettingsError::Value { name, value: text.to_owned(), wanted }),
        }
    }

    /// Names, separated by commas.
    fn list(&self, name: &str) -> Option<Vec<String>> {
        let names = self.get(name)?.split(',').map(str::trim).filter(|name| !name.is_empty());
        Some(names.map(str::to_owned).collect())
    }

    fn switch(&self, name: &'static str) -> Result<Option<bool>, SettingsError> {
        match self.get(name).map(str::to_ascii_lowercase).as_deref() {
            None => Ok(None),
            Some("true" | "1" | "yes" | "on") => Ok(Some(true)),
            Some("false" | "0" | "no" | "off") => Ok(Some(false)),
            Some(other) => {
                Err(SettingsError::Value { name, value: other.to_owned(), wanted: "neither true nor false" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let env = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::from_env(&env)
    }

    const PLACE: [(&str, &str); 3] =
        [("KEYCLOAK_URL", "http://keycloak:8080"), ("KEYCLOAK_REALM", "demo"), ("CLIENT_NAME", "ns/weather")];

    fn with(more: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        read(&[PLACE.as_slice(), more].concat())
    }

    #[test]
    fn three_variables_are_enough() {
        let settings = with(&[]).unwrap();
        assert_eq!(settings.keycloak.issuer(), "http://keycloak:8080/realms/demo");
        assert_eq!(
            settings.identity,
            IdentitySource::Svid {
                token: "/opt/jwt_svid.token".into(),
                bundle: "/opt/jwt_bundle.json".into()
            }
        );
        assert_eq!(settings.files.client_id, PathBuf::from("/shared/client-id.txt"));
        assert_eq!(
            settings.files.secrets,
            [PathBuf::from("/shared/client-secret.txt"), PathBuf::from("/shared/secret.txt")]
        );
        assert!(settings.enabled && settings.token_exchange);
        assert!(!settings.standard_flow && !settings.direct_access_grants);
        assert_eq!(settings.health_address.unwrap().port(), 8082);
        assert_eq!(settings.interval, Duration::from_secs(60));
    }

    #[test]
    fn the_token_endpoint_says_what_the_other_two_do_not() {
        let endpoint = "https://k.example/auth/realms/my%20realm/protocol/openid-connect/token";
        for (more, issuer) in [
            (vec![], "https://k.example/auth/realms/my realm"),
            (vec![("KEYCLOAK_REALM", "other")], "https://k.example/auth/realms/other"),
            (vec![("KEYCLOAK_URL", "http://inside:8080")], "http://inside:8080/realms/my realm"),
        ] {
            let env = [vec![("TOKEN_URL", endpoint), ("CLIENT_NAME", "n")], more].concat();
            assert_eq!(read(&env).unwrap().keycloak.issuer(), issuer);
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (env, expected) in [
            (vec![], "KEYCLOAK_URL and KEYCLOAK_REALM and CLIENT_NAME are not set"),
            (
                vec![("CLIENT_NAME", "n"), ("KEYCLOAK_URL", "http://k"), ("KEYCLOAK_REALM", " ")],
                "KEYCLOAK_REALM is not set",
            ),
            (
                vec![("TOKEN_URL", "https://k.example/token")],
                "TOKEN_URL=\"https://k.example/token\" is not the URL",
            ),
        ] {
            let error = read(&env).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        for (name, value, expected) in [
            ("KEYCLOAK_URL", "keycloak:8080", "can't be called"),
            (
                "KEYCLOAK_ADMIN_USERNAME",
                "admin",
                "KEYCLOAK_ADMIN_USERNAME is set and KEYCLOAK_ADMIN_PASSWORD is not",
            ),
            ("KEYCLOAK_ADMIN_PASSWORD", "hunter2", "KEYCLOAK_ADMIN_PASSWORD is set and"),
            ("CLIENT_AUTH_TYPE", "magic", "neither client-secret nor federated-jwt"),
            ("KEYCLOAK_TOKEN_EXCHANGE_ENABLED", "maybe", "neither true nor false"),
            ("HEALTH_ADDRESS", "8082", "no address"),
            ("REGISTRATION_INTERVAL_SECONDS", "0", "no number of seconds"),
            ("DEREGISTER_DELAY_SECONDS", "-1", "no number of seconds"),
        ] {
            let error = with(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{name}: {error}");
        }
        let env = |address: &str| [("HEALTH_ADDRESS".to_owned(), address.to_owned())].into();
        for (address, expected) in [
            ("127.0.0.1:9", Some("127.0.0.1:9")),
            (":9", Some("[::]:9")),
            ("nonsense", Some("[::]:8082")),
            ("0", None),
        ] {
            let found = Settings::health_address(&env(address)).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{address}");
        }
        // Nothing is needed to do nothing.
        assert!(!read(&[("KEYCLOAK_CLIENT_REGISTRATION_ENABLED", "False")]).unwrap().enabled);
    }

    #[test]
    fn the_client_follows_the_environment() {
        let password = Login::Password { username: "a".to_owned(), password: Secret::new("p") };
        let token = Login::InitialAccess(Secret::new("t"));
        let spec = with(&[]).unwrap().spec("spiffe://td/a", &password, &["spiffe://td/b".to_owned()]);
        let scope = spec.audience_scope.unwrap();
        assert_eq!(
            (scope.name.as_str(), scope.platform_clients.as_slice()),
            ("agent-ns-weather-aud", &["kagenti".to_owned()][..])
        );
        assert!(scope.only_present_clients, "nobody asked for it");
        assert!(!scope.realm_default, "every later client's tokens would be good for this server");
        assert_eq!(scope.former, ["spiffe://td/b"]);
        assert_eq!(spec.name.as_deref(), Some("ns/weather"));
        assert_eq!(with(&[]).unwrap().spec("c", &token, &[]).audience_scope, None);

        let settings = with(&[
            ("CLIENT_AUTH_TYPE", "federated-jwt"),
            ("SPIFFE_IDP_ALIAS", "spire"),
            ("KEYCLOAK_TOKEN_EXCHANGE_ENABLED", "false"),
            ("KEYCLOAK_AUDIENCE_SCOPE_ENABLED", "true"),
            ("PLATFORM_CLIENT_IDS", "a, b,"),
            ("KEYCLOAK_AUDIENCE_REALM_DEFAULT", "true"),
        ])
        .unwrap();
        let spec = settings.spec("c", &token, &[]);
        assert_eq!(spec.proof, ClientProof::FederatedJwt { identity_provider: "spire".to_owned() });
        assert!(!spec.token_exchange);
        let scope = spec.audience_scope.unwrap();
        assert_eq!(scope.platform_clients, ["a", "b"]);
        assert!(!scope.only_present_clients && scope.realm_default);
        let off = with(&[("KEYCLOAK_AUDIENCE_SCOPE_ENABLED", "false")]).unwrap();
        assert_eq!(off.spec("c", &password, &[]).audience_scope, None);
        assert_eq!(
            with(&[("SPIRE_ENABLED", "false")]).unwrap().identity,
            IdentitySource::Name("ns/weather".to_owned())
        );
    }

    #[test]
    fn a_keycloak_that_is_called_in_the_clear_is_told() {
        for (url, told) in [
            ("http://id.example.com", true),
            ("https://id.example.com", false),
            ("http://keycloak.keycloak.svc:8080", false),
            ("http://127.0.0.1:8080", false),
        ] {
            let settings =
                read(&[("KEYCLOAK_URL", url), ("KEYCLOAK_REALM", "r"), ("CLIENT_NAME", "n")]).unwrap();
            let warnings = settings.warnings();
            assert_eq!(warnings.len(), usize::from(told), "{url}: {warnings:?}");
        }
        assert!(read(&[("KEYCLOAK_CLIENT_REGISTRATION_ENABLED", "false")]).unwrap().warnings().is_empty());
    }

    #[test]
    fn a_client_that_nobody_else_can_remove_stays_until_the_server_is_done() {
        let password = Login::Password { username: "a".to_owned(), password: Secret::new("p") };
        let token = Login::InitialAccess(Secret::new("t"));
        let seconds = Duration::from_secs;
        for (more, of_password, of_token, grace) in [
            (vec![], 0, 10, 25),
            (vec![("DEREGISTER_DELAY_SECONDS", "0")], 0, 0, 15),
            (vec![("DEREGISTER_DELAY_SECONDS", "60")], 60, 60, 75),
        ] {
            let settings = with(&more).unwrap();
            assert_eq!(settings.delay(&password), seconds(of_password), "{more:?}");
            assert_eq!(settings.delay(&token), seconds(of_token), "{more:?}");
            assert_eq!(settings.grace(), seconds(grace), "{more:?}");
        }
    }
}
