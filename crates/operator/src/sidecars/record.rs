//! The annotation that says what was injected.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use skep_api::crd::canonical;

use super::names::{
    CLIENT_REGISTRATION, HELPER_CONFIG, INJECTION_ANNOTATION, REGISTRATION_SECRET, REGISTRATION_STATE_VOLUME,
    SERVER_CLIENT_DIR, SERVER_CLIENT_VARIABLE, SERVER_SVID_DIR, SERVER_SVID_VARIABLE, SHARED_VOLUME,
    SOCKET_VOLUME, SPIFFE_HELPER, SVID_VOLUME,
};
use super::parts::Parts;
use super::prerequisites::{Login, Needs};
use super::settings::{Registration, SidecarMode};
use super::tree::{Made, text};

/// Version of the annotation that is written, and the newest that is read.
const VERSION: u64 = 1;
/// Hexadecimal digits of a hash.
const DIGITS: usize = 16;

/// What the annotation `skep.dev/injection` of an object says: why sidecars were injected, which, and a hash of
/// each thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Injection {
    version: u64,
    /// What decided, as [`super::Reason::as_str`] has it.
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub mode: SidecarMode,
    #[serde(default)]
    pub registration: Registration,
    #[serde(default)]
    pub login: Login,
    #[serde(default)]
    pub(super) containers: Hashes,
    #[serde(default)]
    pub(super) volumes: Hashes,
    /// Mounts of the MCP server's container, by path.
    #[serde(default)]
    pub(super) mounts: Hashes,
    /// Variables of the MCP server's container.
    #[serde(default)]
    pub(super) env: Hashes,
    /// Containers that were injected and that the user has edited since: they are his, but the volumes that they
    /// mount came with them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) adopted: BTreeSet<String>,
    #[serde(default)]
    made: Vec<String>,
}

/// Hashes of entries, by what tells the entries of a list apart.
pub(super) type Hashes = BTreeMap<String, String>;

/// What an object's annotation turns out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read {
    /// There is none.
    Absent,
    /// It can't be read.
    Unreadable,
    /// Its version is this, which is newer than this program.
    Newer(u64),
    Known(Box<Injection>),
}

impl Injection {
    /// What an object's annotations say. None when nothing is injected, or when it can't be read.
    pub fn of(annotations: &BTreeMap<String, String>) -> Option<Self> {
        match Read::text(annotations.get(INJECTION_ANNOTATION)?) {
            Read::Known(injection) => Some(*injection),
            _ => None,
        }
    }

    /// What the sidecars that were injected need of their namespace. Where the container that registers the
    /// client is the user's own, its login is his affair.
    pub fn needs(&self) -> Needs {
        if self.containers.contains_key(CLIENT_REGISTRATION) {
            Needs { registration: self.registration, login: self.login }
        } else {
            Needs { registration: Registration::Operator, login: Login::Nothing }
        }
    }

    /// Names of the containers that were injected.
    pub fn containers(&self) -> impl Iterator<Item = &str> {
        self.containers.keys().map(String::as_str)
    }

    pub(super) fn new(reason: &str, mode: SidecarMode, needs: Needs) -> Self {
        Self {
            version: VERSION,
            reason: reason.to_owned(),
            mode,
            registration: needs.registration,
            login: needs.login,
            containers: Hashes::new(),
            volumes: Hashes::new(),
            mounts: Hashes::new(),
            env: Hashes::new(),
            adopted: BTreeSet::new(),
            made: Vec::new(),
        }
    }

    /// Forgets what nothing of this program is called: nobody but us was to write the annotation, but everybody
    /// can.
    fn only_ours(mut self) -> Self {
        const VOLUMES: [&str; 6] = [
            SHARED_VOLUME,
            SOCKET_VOLUME,
            HELPER_CONFIG,
            SVID_VOLUME,
            REGISTRATION_SECRET,
            REGISTRATION_STATE_VOLUME,
        ];
        for (hashes, ours) in [
            (&mut self.containers, &[SPIFFE_HELPER, CLIENT_REGISTRATION][..]),
            (&mut self.volumes, &VOLUMES),
            (&mut self.mounts, &[SERVER_SVID_DIR, SERVER_CLIENT_DIR]),
            (&mut self.env, &[SERVER_SVID_VARIABLE, SERVER_CLIENT_VARIABLE]),
        ] {
            hashes.retain(|id, _| ours.contains(&id.as_str()));
        }
        self.adopted.retain(|name| [SPIFFE_HELPER, CLIENT_REGISTRATION].contains(&name.as_str()));
        self
    }

    /// The same with only those things that are in one of `possible` with this very content.
    pub(super) fn only(&self, possible: &[Parts]) -> Self {
        let known = |of: fn(&Parts) -> &Vec<Value>, key: &str| {
            let parts = possible.iter().flat_map(of);
            parts.filter_map(|part| Some((text(part, key)?.to_owned(), hash(part)))).collect::<BTreeSet<_>>()
        };
        let kept = |hashes: &Hashes, known: BTreeSet<(String, String)>| {
            let found = hashes.iter().map(|(id, hash)| (id.clone(), hash.clone()));
            found.filter(|entry| known.contains(entry)).collect::<Hashes>()
        };
        Self {
            containers: kept(&self.containers, known(|parts| &parts.containers, "name")),
            volumes: kept(&self.volumes, known(|parts| &parts.volumes, "name")),
            mounts: kept(&self.mounts, known(|parts| &parts.mounts, "mountPath")),
            env: kept(&self.env, known(|parts| &parts.env, "name")),
            ..self.clone()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        [&self.containers, &self.volumes, &self.mounts, &self.env].iter().all(|hashes| hashes.is_empty())
    }

    pub(super) fn made(&self) -> Made {
        Made::read(&self.made)
    }

    /// The annotation's text.
    pub(super) fn to_text(&self, made: &Made) -> String {
        let whole = Self { made: made.names(), ..self.clone() };
        serde_json::to_string(&whole).unwrap_or_default()
    }
}

impl Read {
    /// Reads the annotation of a raw object.
    pub(super) fn object(object: &Value) -> Self {
        let annotations = object.pointer("/metadata/annotations");
        match annotations.and_then(|annotations| annotations.get(INJECTION_ANNOTATION)) {
            None => Self::Absent,
            Some(Value::String(text)) => Self::text(text),
            Some(_) => Self::Unreadable,
        }
    }

    fn text(text: &str) -> Self {
        let Ok(value) = serde_json::from_str::<Value>(text) else { return Self::Unreadable };
        match value.get("version").and_then(Value::as_u64) {
            Some(version) if version > VERSION => Self::Newer(version),
            Some(VERSION) => {
                let read = serde_json::from_value::<Injection>(value);
                read.map_or(Self::Unreadable, |read| Self::Known(Box::new(read.only_ours())))
            }
            _ => Self::Unreadable,
        }
    }
}

/// A hash of an entry's content that does not depend on the order of its fields.
pub(super) fn hash(entry: &Value) -> String {
    canonical::digest(entry).chars().take(DIGITS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_annotation_is_read_strictly_and_a_newer_one_not_at_all() {
        let known = |text: &str| matches!(Read::text(text), Read::Known(_));
        assert!(known(r#"{"version":1}"#));
        assert!(known(r#"{"version":1,"mode":"builtin","registration":"operator","later":[]}"#));
        for text in [
            "",
            "x",
            "1",
            "[]",
            "{}",
            r#"{"version":0}"#,
            r#"{"version":-1}"#,
            r#"{"version":"1"}"#,
            r#"{"version":1,"mode":"other"}"#,
            r#"{"version":1,"containers":["a"]}"#,
            r#"{"version":1,"containers":{"a":1}}"#,
            r#"{"version":1,"made":"spec"}"#,
        ] {
            assert_eq!(Read::text(text), Read::Unreadable, "{text}");
        }
        assert_eq!(Read::text(r#"{"version":2,"containers":[]}"#), Read::Newer(2));
        assert_eq!(Read::object(&json!({})), Read::Absent);
        let odd = json!({"metadata": {"annotations": {"skep.dev/injection": {}}}});
        assert_eq!(Read::object(&odd), Read::Unreadable);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let needs = Needs { registration: Registration::Pod, login: Login::AdminSecret };
        let mut written = Injection::new("flag", SidecarMode::External, needs);
        written.containers.insert(CLIENT_REGISTRATION.to_owned(), "ab".to_owned());
        let mut made = Made::default();
        made.note("volumes", super::super::tree::Before::Null);
        let text = written.to_text(&made);
        assert_eq!(
            text,
            r#"{"version":1,"reason":"flag","mode":"external","registration":"pod","login":"admin-secret","containers":{"kagenti-client-registration":"ab"},"volumes":{},"mounts":{},"env":{},"made":["volumes:null"]}"#
        );
        let annotations = BTreeMap::from([(INJECTION_ANNOTATION.to_owned(), text)]);
        let read = Injection::of(&annotations).unwrap();
        assert_eq!((read.made(), read.needs()), (made, needs));
        assert_eq!(read.containers().collect::<Vec<_>>(), [CLIENT_REGISTRATION]);
    }
}
