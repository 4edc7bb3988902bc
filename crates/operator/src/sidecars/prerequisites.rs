//! What a namespace has to have before injected sidecars can do their work.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use skep_api::address::is_in_the_clear;
use url::Url;

use super::names::{
    ADMIN_SECRET, CLIENT_ID_KEY, CLIENT_SECRET_KEY, ENVIRONMENTS, HELPER_CONFIG, HELPER_CONFIG_KEY,
    INITIAL_ACCESS_KEY, KEYCLOAK_ADMIN_PASSWORD, KEYCLOAK_ADMIN_USERNAME, KEYCLOAK_REALM, KEYCLOAK_URL,
    REGISTRATION_SECRET,
};
use super::settings::{AdminInPods, Policy, Registration, SidecarMode, Surroundings};

const ADMIN_KEYS: [&str; 2] = [KEYCLOAK_ADMIN_USERNAME, KEYCLOAK_ADMIN_PASSWORD];

/// With what the registration in a pod logs in to Keycloak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Login {
    /// An administrator's name and password, from the Secret `keycloak-admin-secret`.
    AdminSecret,
    /// The same from the ConfigMap `environments`.
    AdminConfigMap,
    /// The same, where the ConfigMap does not carry them at the moment: they count from the next start of a pod
    /// after it does.
    AdminConfigMapLater,
    /// What the Secret `keycloak-registration` holds (built-in sidecars).
    RegistrationSecret,
    /// Nothing: the operator registers the client, or nobody can.
    #[default]
    Nothing,
}

impl Login {
    /// With what the registration of a pod that is injected now logs in.
    pub fn of(policy: &Policy, around: &Surroundings) -> Self {
        match (policy.registration, policy.mode) {
            (Registration::Operator, _) => Self::Nothing,
            (Registration::Pod, SidecarMode::Builtin) => Self::RegistrationSecret,
            (Registration::Pod, SidecarMode::External) => {
                let legacy = carries_admin(around.environments.as_ref());
                let allowed = match policy.admin_in_pods {
                    AdminInPods::Allowed => true,
                    AdminInPods::WhereLegacy => legacy,
                    AdminInPods::Forbidden => false,
                };
                if policy.admin_in_pods == AdminInPods::WhereLegacy && !legacy {
                    Self::AdminConfigMapLater
                } else if !allowed {
                    Self::Nothing
                } else if has_keys(around.admin_secret.as_ref(), &ADMIN_KEYS) {
                    Self::AdminSecret
                } else if legacy {
                    Self::AdminConfigMap
                } else {
                    Self::Nothing
                }
            }
        }
    }

    /// True when an administrator's name and password are in the pod.
    pub fn is_admin(self) -> bool {
        matches!(self, Self::AdminSecret | Self::AdminConfigMap)
    }
}

/// What sidecars of one kind need of their namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    pub registration: Registration,
    pub login: Login,
}

impl Needs {
    /// Those of sidecars that are injected now.
    pub fn of(policy: &Policy, around: &Surroundings) -> Self {
        Self { registration: policy.registration, login: Login::of(policy, around) }
    }
}

/// Something that sidecars need and that is not there. Displays as a sentence that names the object and the key
/// and says what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prerequisite {
    /// There is no such ConfigMap.
    ConfigMap { name: &'static str, keys: &'static [&'static str] },
    /// A key of a ConfigMap is not there, or is empty.
    ConfigMapKey { name: &'static str, key: &'static str },
    /// There is no such Secret.
    Secret { name: &'static str, keys: &'static str },
    /// A Secret has no keys that can be used.
    SecretKeys { name: &'static str, keys: &'static str },
    /// Nothing in the pod lets the registration log in to Keycloak.
    Login,
}

impl fmt::Display for Prerequisite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConfigMap { name, keys } => {
                let word = if keys.len() == 1 { "key" } else { "keys" };
                let keys = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(" and ");
                write!(
                    f,
                    "The ConfigMap `{name}` does not exist in this namespace. Create it with the {word} {keys}."
                )
            }
            Self::ConfigMapKey { name, key } => {
                write!(f, "The ConfigMap `{name}` has no key `{key}`, or it is empty. Add it.")
            }
            Self::Secret { name, keys } => write!(
                f,
                "The Secret `{name}`, with which the client is registered, does not exist in this namespace. Create it with {keys}."
            ),
            Self::SecretKeys { name, keys } => write!(
                f,
                "The Secret `{name}`, with which the client is registered, can't be used. It needs {keys}."
            ),
            Self::Login => write!(
                f,
                "The sidecar that registers the client has no credential for Keycloak. Let the operator register clients (--registration=operator), use built-in sidecars (--sidecar-mode=builtin) with the Secret `{REGISTRATION_SECRET}`, or allow an administrator's password of the Secret `{ADMIN_SECRET}` in pods (--allow-admin-in-pods)."
            ),
        }
    }
}

/// What is missing, in the order in which it is best seen to. Empty when the sidecars can do their work.
pub fn missing(needs: &Needs, around: &Surroundings) -> Vec<Prerequisite> {
    let mut missing = Vec::new();
    match &around.helper_config {
        None => missing.push(Prerequisite::ConfigMap { name: HELPER_CONFIG, keys: &[HELPER_CONFIG_KEY] }),
        Some(keys) if !keys.contains(HELPER_CONFIG_KEY) => {
            missing.push(Prerequisite::ConfigMapKey { name: HELPER_CONFIG, key: HELPER_CONFIG_KEY });
        }
        Some(_) => {}
    }
    if needs.registration == Registration::Operator {
        return missing;
    }
    match &around.environments {
        None => missing
            .push(Prerequisite::ConfigMap { name: ENVIRONMENTS, keys: &[KEYCLOAK_URL, KEYCLOAK_REALM] }),
        Some(data) => {
            let absent = [KEYCLOAK_URL, KEYCLOAK_REALM].into_iter().filter(|key| !is_said(data, key));
            missing.extend(absent.map(|key| Prerequisite::ConfigMapKey { name: ENVIRONMENTS, key }));
        }
    }
    missing.extend(login(needs.login, around));
    missing
}

fn login(login: Login, around: &Surroundings) -> Option<Prerequisite> {
    const ADMIN: &str = "the keys `KEYCLOAK_ADMIN_USERNAME` and `KEYCLOAK_ADMIN_PASSWORD`";
    const REGISTRATION: &str = "the key `initial-access-token`, or `client-id` and `client-secret` of a client that has the role manage-clients";
    match login {
        Login::Nothing => Some(Prerequisite::Login),
        Login::AdminConfigMapLater => {
            (!carries_admin(around.environments.as_ref())).then_some(Prerequisite::Login)
        }
        Login::AdminConfigMap => {
            let data = around.environments.as_ref()?;
            let key = ADMIN_KEYS.into_iter().find(|key| !is_said(data, key))?;
            Some(Prerequisite::ConfigMapKey { name: ENVIRONMENTS, key })
        }
        Login::AdminSecret => match &around.admin_secret {
            None => Some(Prerequisite::Secret { name: ADMIN_SECRET, keys: ADMIN }),
            found if has_keys(found.as_ref(), &ADMIN_KEYS) => None,
            Some(_) => Some(Prerequisite::SecretKeys { name: ADMIN_SECRET, keys: ADMIN }),
        },
        Login::RegistrationSecret => match &around.registration_secret {
            None => Some(Prerequisite::Secret { name: REGISTRATION_SECRET, keys: REGISTRATION }),
            found
                if has_keys(found.as_ref(), &[INITIAL_ACCESS_KEY])
                    || has_keys(found.as_ref(), &[CLIENT_ID_KEY, CLIENT_SECRET_KEY]) =>
            {
                None
            }
            Some(_) => Some(Prerequisite::SecretKeys { name: REGISTRATION_SECRET, keys: REGISTRATION }),
        },
    }
}

/// Something about sidecars that works, and that should not be like this. Displays as a sentence that says what
/// to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Caution {
    /// Keycloak's URL is plain http to another place than this cluster.
    InTheClear,
    /// An initial access token registers one client, and this many pods want to be it.
    ManyReplicas(u64),
}

impl fmt::Display for Caution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InTheClear => write!(
                f,
                "`{KEYCLOAK_URL}` of the ConfigMap `{ENVIRONMENTS}` is plain http and leads out of the cluster, so passwords and secrets of clients can be read on the way. Use https."
            ),
            Self::ManyReplicas(replicas) => write!(
                f,
                "Clients are registered with an initial access token here (`{REGISTRATION_SECRET}`), with which only the first of {replicas} pods can register the client: the others find it taken. Set `backendReplicas: 1`, let the operator register clients (--registration=operator), or put `client-id` and `client-secret` in the place of the token."
            ),
        }
    }
}

/// What is dangerous about how sidecars are going to work. `replicas` is how many pods the server has, as far as
/// that is said.
pub fn cautions(needs: &Needs, around: &Surroundings, replicas: Option<u64>) -> Vec<Caution> {
    let mut found = Vec::new();
    if needs.registration == Registration::Operator {
        return found;
    }
    let url = around.environments.as_ref().and_then(|data| data.get(KEYCLOAK_URL));
    if url.and_then(|url| Url::parse(url.trim()).ok()).is_some_and(|url| is_in_the_clear(&url)) {
        found.push(Caution::InTheClear);
    }
    if let Some(replicas) = replicas.filter(|replicas| *replicas > 1)
        && needs.login == Login::RegistrationSecret
        && has_keys(around.registration_secret.as_ref(), &[INITIAL_ACCESS_KEY])
    {
        found.push(Caution::ManyReplicas(replicas));
    }
    found
}

fn carries_admin(environments: Option<&BTreeMap<String, String>>) -> bool {
    environments.is_some_and(|data| ADMIN_KEYS.iter().all(|key| is_said(data, key)))
}

fn is_said(data: &BTreeMap<String, String>, key: &str) -> bool {
    data.get(key).is_some_and(|value| !value.trim().is_empty())
}

fn has_keys(found: Option<&BTreeSet<String>>, keys: &[&str]) -> bool {
    found.is_some_and(|found| keys.iter().all(|key| found.contains(*key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[&str]) -> Option<BTreeSet<String>> {
        Some(keys.iter().map(|key| (*key).to_owned()).collect())
    }

    fn data(keys: &[&str]) -> Option<BTreeMap<String, String>> {
        Some(keys.iter().map(|key| ((*key).to_owned(), "x".to_owned())).collect())
    }

    const ALL: [&str; 4] = [KEYCLOAK_URL, KEYCLOAK_REALM, KEYCLOAK_ADMIN_USERNAME, KEYCLOAK_ADMIN_PASSWORD];

    #[test]
    fn an_administrators_password_enters_a_pod_only_where_that_is_allowed() {
        use AdminInPods::{Allowed, Forbidden, WhereLegacy};
        let (legacy, plain) = (data(&ALL), data(&[KEYCLOAK_URL, KEYCLOAK_REALM]));
        let (secret, half) = (keys(&ADMIN_KEYS), keys(&[KEYCLOAK_ADMIN_USERNAME]));
        for (admin_in_pods, environments, admin_secret, expected) in [
            (WhereLegacy, &legacy, &None, Login::AdminConfigMap),
            (WhereLegacy, &legacy, &secret, Login::AdminSecret),
            (WhereLegacy, &legacy, &half, Login::AdminConfigMap),
            (WhereLegacy, &plain, &secret, Login::AdminConfigMapLater),
            (WhereLegacy, &None, &secret, Login::AdminConfigMapLater),
            (Allowed, &plain, &secret, Login::AdminSecret),
            (Allowed, &None, &secret, Login::AdminSecret),
            (Allowed, &legacy, &None, Login::AdminConfigMap),
            (Allowed, &plain, &half, Login::Nothing),
            (Forbidden, &legacy, &secret, Login::Nothing),
        ] {
            let around = Surroundings {
                environments: environments.clone(),
                admin_secret: admin_secret.clone(),
                ..Surroundings::default()
            };
            let policy = Policy { admin_in_pods, ..Policy::default() };
            assert_eq!(Login::of(&policy, &around), expected, "{admin_in_pods:?} {around:?}");
            for (mode, registration, expected) in [
                (SidecarMode::Builtin, Registration::Pod, Login::RegistrationSecret),
                (SidecarMode::Builtin, Registration::Operator, Login::Nothing),
                (SidecarMode::External, Registration::Operator, Login::Nothing),
            ] {
                let policy = Policy { mode, registration, ..policy.clone() };
                assert_eq!(Login::of(&policy, &around), expected, "{mode:?} {registration:?}");
            }
        }
    }

    #[test]
    fn what_works_and_should_not_be_so_is_said() {
        let around = |url: &str, secret: &[&str]| Surroundings {
            environments: Some(BTreeMap::from([(KEYCLOAK_URL.to_owned(), url.to_owned())])),
            registration_secret: keys(secret),
            ..Surroundings::default()
        };
        let needs = |registration, login| Needs { registration, login };
        let builtin = needs(Registration::Pod, Login::RegistrationSecret);
        let admin = needs(Registration::Pod, Login::AdminConfigMap);
        let operator = needs(Registration::Operator, Login::Nothing);
        let token = &[INITIAL_ACCESS_KEY][..];
        let client = &[CLIENT_ID_KEY, CLIENT_SECRET_KEY][..];
        let (far, near) = ("http://id.example.com", "http://keycloak.keycloak.svc:8080");
        for (needs, around, replicas, expected) in [
            (builtin, around(far, token), None, &[Caution::InTheClear][..]),
            (admin, around(far, &[]), Some(9), &[Caution::InTheClear]),
            (operator, around(far, token), Some(9), &[]),
            (builtin, around(near, token), Some(1), &[]),
            (builtin, around("https://id.example.com", token), None, &[]),
            (builtin, around("no URL", client), Some(2), &[]),
            (builtin, around(near, token), Some(2), &[Caution::ManyReplicas(2)]),
            (builtin, around(near, client), Some(2), &[]),
            (builtin, Surroundings::default(), Some(2), &[]),
        ] {
            assert_eq!(cautions(&needs, &around, replicas), expected, "{needs:?} {around:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let pod = |login| Needs { registration: Registration::Pod, login };
        let helper = keys(&[HELPER_CONFIG_KEY]);
        let around = |environments, admin_secret, registration_secret| Surroundings {
            environments,
            helper_config: helper.clone(),
            admin_secret,
            registration_secret,
            ..Surroundings::default()
        };
        let urls = || data(&[KEYCLOAK_URL, KEYCLOAK_REALM]);
        let mut empty = urls().unwrap();
        empty.insert(KEYCLOAK_REALM.to_owned(), " ".to_owned());
        let operator = Needs { registration: Registration::Operator, login: Login::Nothing };
        for (needs, around, expected) in [
            (operator, around(None, None, None), &[][..]),
            (operator, Surroundings::default(), &["`spiffe-helper-config` does not exist"]),
            (
                operator,
                Surroundings { helper_config: keys(&["other"]), ..Surroundings::default() },
                &["`spiffe-helper-config` has no key `helper.conf`"],
            ),
            (pod(Login::Nothing), around(urls(), None, None), &["no credential for Keycloak"]),
            (pod(Login::AdminConfigMapLater), around(urls(), None, None), &["no credential for Keycloak"]),
            (pod(Login::AdminConfigMapLater), around(data(&ALL), None, None), &[]),
            (pod(Login::AdminConfigMap), around(data(&ALL), None, None), &[]),
            (pod(Login::AdminConfigMap), around(urls(), None, None), &["no key `KEYCLOAK_ADMIN_USERNAME`"]),
            (pod(Login::AdminSecret), around(urls(), keys(&ADMIN_KEYS), None), &[]),
            (pod(Login::AdminSecret), around(urls(), keys(&[]), None), &["`keycloak-admin-secret`, with"]),
            (pod(Login::RegistrationSecret), around(urls(), None, keys(&[INITIAL_ACCESS_KEY])), &[]),
            (
                pod(Login::RegistrationSecret),
                around(urls(), None, keys(&[CLIENT_ID_KEY, CLIENT_SECRET_KEY])),
                &[],
            ),
            (
                pod(Login::RegistrationSecret),
                around(urls(), None, keys(&[CLIENT_ID_KEY])),
                &["`initial-access-token`, or"],
            ),
            (
                pod(Login::RegistrationSecret),
                around(Some(empty), None, None),
                &["`environments` has no key `KEYCLOAK_REALM`", "`keycloak-registration`, with"],
            ),
            (
                pod(Login::RegistrationSecret),
                Surroundings::default(),
                &[
                    "Create it with the key `helper.conf`.",
                    "Create it with the keys `KEYCLOAK_URL` and `KEYCLOAK_REALM`.",
                    "does not exist in this namespace. Create it with the key `initial-access-token`",
                ],
            ),
        ] {
            let found: Vec<String> = missing(&needs, &around).iter().map(ToString::to_string).collect();
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, part) in found.iter().zip(expected) {
                assert!(found.contains(part), "{found}\n{part}");
            }
        }
    }
}
