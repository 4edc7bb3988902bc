//! The configuration file: which agent, which files, whom to tell.

mod command;
mod error;
mod fields;
mod hcl;
mod mode;
mod signal;

use std::path::{Component, Path, PathBuf};

use skep_auth::spiffe::AgentAddress;

pub use self::command::CommandLine;
pub use self::error::{Advice, ConfigError, ConfigProblem};
use self::fields::{Fields, Place};
use self::hcl::{Data, Item, Value};
pub use self::mode::FileMode;
pub use self::signal::RenewSignal;

static TOP: Place = Place {
    name: "of this file",
    keys: &[
        "agent_address",
        "cmd",
        "cmd_args",
        "pid_file_name",
        "renew_signal",
        "cert_dir",
        "daemon_mode",
        "add_intermediates_to_bundle",
        "include_federated_domains",
        "omit_expired",
        "hint",
        "svid_file_name",
        "svid_key_file_name",
        "svid_bundle_file_name",
        "jwt_svids",
        "jwt_bundle_file_name",
        "cert_file_mode",
        "key_file_mode",
        "jwt_bundle_file_mode",
        "jwt_svid_file_mode",
        "health_checks",
    ],
    repeated: &["jwt_svids"],
};
static JWT_ENTRY: Place = Place {
    name: "of an entry of jwt_svids",
    keys: &["jwt_audience", "jwt_extra_audiences", "jwt_svid_file_name"],
    repeated: &[],
};
static HEALTH: Place = Place {
    name: "of health_checks",
    keys: &["listener_enabled", "bind_port", "liveness_path", "readiness_path"],
    repeated: &[],
};
static PLACES: [&Place; 3] = [&TOP, &JWT_ENTRY, &HEALTH];

/// What a configuration file says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelperConfig {
    /// The agent; none: the environment says it.
    pub agent: Option<AgentAddress>,
    /// Stay and keep the files new; false: write them once.
    pub daemon: bool,
    /// What to run when every file is there for the first time.
    pub command: Option<CommandLine>,
    /// The file with the number of the process to tell.
    pub pid_file: Option<PathBuf>,
    /// How to tell a process that files are new.
    pub renew_signal: Option<RenewSignal>,
    /// Where an X.509-SVID goes.
    pub x509: Option<X509Outputs>,
    /// What belongs into the X.509 bundle.
    pub bundle: BundleChoice,
    /// Which SVID it is, where the workload has several; none: the first.
    pub hint: Option<String>,
    /// The JWT-SVIDs to keep.
    pub jwt_svids: Vec<JwtOutput>,
    /// Where the JWT bundles go.
    pub jwt_bundle: Option<Target>,
    /// The mode of JWT bundles, where one was given.
    pub jwt_bundle_mode: Option<FileMode>,
    /// Where health is asked for.
    pub health: Option<HealthSettings>,
    /// What was said without any effect; one sentence each, for the log.
    pub notes: Vec<String>,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub path: PathBuf,
    pub mode: FileMode,
}

/// The three files of an X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Outputs {
    /// The certificate chain, leaf first.
    pub certificate: Target,
    /// The private key, PKCS#8.
    pub key: Target,
    /// The authorities to trust.
    pub bundle: Target,
}

/// What belongs into the X.509 bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BundleChoice {
    /// Intermediate certificates go into the bundle instead of the chain.
    pub add_intermediates: bool,
    /// The authorities of federated trust domains too.
    pub include_federated: bool,
    /// Without certificates that have expired.
    pub omit_expired: bool,
}

/// A JWT-SVID to keep in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtOutput {
    /// For whom it is; the first is `jwt_audience`.
    pub audiences: Vec<String>,
    pub target: Target,
}

/// Where health is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSettings {
    /// Zero: any free one.
    pub port: u16,
    pub liveness_path: String,
    pub readiness_path: String,
}

impl HelperConfig {
    /// Reads a configuration; `file` is how errors name it.
    ///
    /// All keys of spiffe-helper 0.11 with its defaults and rules; an unknown key, one that stands twice or a
    /// value of another type is an error. `jwt_svids` is a list of objects or a repeated block.
    ///
    /// # Errors
    /// Says what is wrong on which line; see [`ConfigProblem`].
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let items = hcl::parse(text).map_err(|error| ConfigError {
            file: file.to_owned(),
            line: Some(error.line),
            problem: ConfigProblem::Syntax { message: error.message },
        })?;
        let fields = Fields::new(file, &items, &TOP)?;
        let folder = fields.text("cert_dir")?.map(PathBuf::from).unwrap_or_default();
        let command = command(&fields)?;
        let renew_signal = renew_signal(&fields)?;
        let mut config = Self {
            agent: agent(&fields)?,
            daemon: fields.flag("daemon_mode")?.unwrap_or(true),
            pid_file: fields.text("pid_file_name")?.map(PathBuf::from),
            x509: x509(&fields, &folder)?,
            bundle: BundleChoice {
                add_intermediates: fields.flag("add_intermediates_to_bundle")?.unwrap_or(false),
                include_federated: fields.flag("include_federated_domains")?.unwrap_or(false),
                omit_expired: fields.flag("omit_expired")?.unwrap_or(false),
            },
            hint: fields.text("hint")?.map(str::to_owned),
            jwt_svids: jwt_svids(&fields, &folder)?,
            jwt_bundle: jwt_bundle(&fields, &folder)?,
            jwt_bundle_mode: fields.mode("jwt_bundle_file_mode")?,
            health: health(&fields)?,
            command,
            renew_signal,
            notes: Vec::new(),
        };
        config.check(&fields)?;
        config.take_notes(&fields);
        Ok(config)
    }

    /// The rules that go over several keys.
    fn check(&self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        if self.pid_file.is_some() && self.renew_signal.is_none() {
            let line = fields.line("pid_file_name").unwrap_or(1);
            return Err(fields.error(line, ConfigProblem::NoSignal));
        }
        if self.targets().next().is_none() {
            return Err(ConfigError { line: None, ..fields.error(1, ConfigProblem::NoOutput) });
        }
        let targets: Vec<&Target> = self.targets().collect();
        for (position, target) in targets.iter().enumerate() {
            if targets.iter().take(position).any(|before| before.path == target.path) {
                let problem = ConfigProblem::SameFile { path: target.path.display().to_string() };
                return Err(ConfigError { line: None, ..fields.error(1, problem) });
            }
        }
        Ok(())
    }

    fn take_notes(&mut self, fields: &Fields<'_>) {
        let mut note = |text: &str| self.notes.push(text.to_owned());
        if self.command.is_some() && self.renew_signal.is_none() {
            note("cmd is run, but without renew_signal it is not told when files are new");
        }
        if self.command.is_none() && self.pid_file.is_none() && self.renew_signal.is_some() {
            note("renew_signal has no effect without cmd or pid_file_name");
        }
        if self.command.is_none() && matches!(fields.text("cmd_args"), Ok(Some(_))) {
            note("cmd_args has no effect without cmd");
        }
    }

    /// Every file that is written.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let x509 = self.x509.iter().flat_map(|x509| [&x509.certificate, &x509.key, &x509.bundle]);
        x509.chain(self.jwt_svids.iter().map(|jwt| &jwt.target)).chain(&self.jwt_bundle)
    }
}

fn agent(fields: &Fields<'_>) -> Result<Option<AgentAddress>, ConfigError> {
    let Some(text) = fields.text("agent_address")? else { return Ok(None) };
    let line = fields.line("agent_address").unwrap_or(1);
    let address = AgentAddress::parse(text);
    address.map(Some).map_err(|error| fields.value(line, "agent_address", text, error.problem))
}

fn command(fields: &Fields<'_>) -> Result<Option<CommandLine>, ConfigError> {
    let arguments = fields.text("cmd_args")?.unwrap_or_default();
    let line = fields.line("cmd_args").unwrap_or(1);
    let arguments =
        command::split(arguments).map_err(|problem| fields.value(line, "cmd_args", arguments, problem))?;
    Ok(fields.text("cmd")?.map(|program| CommandLine { program: PathBuf::from(program), arguments }))
}

fn renew_signal(fields: &Fields<'_>) -> Result<Option<RenewSignal>, ConfigError> {
    let Some(text) = fields.text("renew_signal")? else { return Ok(None) };
    match RenewSignal::parse(text) {
        Some(signal) => Ok(Some(signal)),
        None => {
            let problem = ConfigProblem::Signal { text: text.to_owned(), known: RenewSignal::known() };
            Err(fields.error(fields.line("renew_signal").unwrap_or(1), problem))
        }
    }
}

fn x509(fields: &Fields<'_>, folder: &Path) -> Result<Option<X509Outputs>, ConfigError> {
    const NAMES: [&str; 3] = ["svid_file_name", "svid_key_file_name", "svid_bundle_file_name"];
    let public = fields.mode("cert_file_mode")?.unwrap_or(FileMode::PUBLIC);
    let private = fields.mode("key_file_mode")?.unwrap_or(FileMode::PRIVATE);
    let [certificate, key, bundle] = NAMES.map(|name| fields.text(name));
    match (certificate?, key?, bundle?) {
        (Some(certificate), Some(key), Some(bundle)) => Ok(Some(X509Outputs {
            certificate: Target { path: join(folder, certificate), mode: public },
            key: Target { path: join(folder, key), mode: private },
            bundle: Target { path: join(folder, bundle), mode: public },
        })),
        (None, None, None) => Ok(None),
        given => {
            let given = [given.0, given.1, given.2];
            let all = || NAMES.iter().zip(given);
            let missing: Vec<_> = all().filter(|(_, text)| text.is_none()).map(|(name, _)| *name).collect();
            let line = all().find(|(_, text)| text.is_some()).and_then(|(name, _)| fields.line(name));
            let problem = ConfigProblem::X509Incomplete { missing: missing.join(" and ") };
            Err(fields.error(line.unwrap_or(1), problem))
        }
    }
}

fn jwt_bundle(fields: &Fields<'_>, folder: &Path) -> Result<Option<Target>, ConfigError> {
    let mode = fields.mode("jwt_bundle_file_mode")?.unwrap_or(FileMode::PRIVATE);
    let name = fields.text("jwt_bundle_file_name")?;
    Ok(name.map(|name| Target { path: join(folder, name), mode }))
}

fn jwt_svids(fields: &Fields<'_>, folder: &Path) -> Result<Vec<JwtOutput>, ConfigError> {
    let mode = fields.mode("jwt_svid_file_mode")?.unwrap_or(FileMode::PRIVATE);
    let mut outputs = Vec::new();
    for item in fields.all("jwt_svids") {
        let entries = match &item.value.data {
            Data::List(values) => values.iter().collect(),
            Data::Object(_) => vec![&item.value],
            other => return Err(fields.mistyped(item.line, "jwt_svids", "a list of objects", other)),
        };
        for entry in entries {
            outputs.push(jwt_entry(fields, entry, folder, mode)?);
        }
    }
    Ok(outputs)
}

fn jwt_entry(
    fields: &Fields<'_>,
    entry: &Value,
    folder: &Path,
    mode: FileMode,
) -> Result<JwtOutput, ConfigError> {
    let items = object(fields, "jwt_svids", "a list of objects", entry)?;
    let entry_fields = fields.inner(items, &JWT_ENTRY)?;
    let missing = |key| fields.error(entry.line, ConfigProblem::JwtEntry { key });
    let audience = entry_fields.text("jwt_audience")?.ok_or_else(|| missing("jwt_audience"))?;
    let name = entry_fields.text("jwt_svid_file_name")?.ok_or_else(|| missing("jwt_svid_file_name"))?;
    let mut audiences = vec![audience.to_owned()];
    for extra in entry_fields.texts("jwt_extra_audiences")? {
        if extra.is_empty() {
            let line = entry_fields.line("jwt_extra_audiences").unwrap_or(entry.line);
            return Err(fields.value(line, "jwt_extra_audiences", "empty", "an audience has a name"));
        }
        if !audiences.contains(&extra) {
            audiences.push(extra);
        }
    }
    Ok(JwtOutput { audiences, target: Target { path: join(folder, name), mode } })
}

fn health(fields: &Fields<'_>) -> Result<Option<HealthSettings>, ConfigError> {
    let Some(item) = fields.all("health_checks").next() else { return Ok(None) };
    let items = object(fields, "health_checks", "an object", &item.value)?;
    let inner = fields.inner(items, &HEALTH)?;
    let path = |key: &str, default: &str| {
        let text = inner.text(key)?.unwrap_or(default);
        if text.starts_with('/') && !text.contains(['?', '#', ' ']) {
            return Ok(text.to_owned());
        }
        Err(fields.value(inner.line(key).unwrap_or(item.line), key, text, "a path begins with `/`"))
    };
    let settings = HealthSettings {
        port: inner.port("bind_port")?.unwrap_or(8081),
        liveness_path: path("liveness_path", "/live")?,
        readiness_path: path("readiness_path", "/ready")?,
    };
    if settings.liveness_path == settings.readiness_path {
        let line = inner.line("readiness_path").unwrap_or(item.line);
        let same = "the other question has this path";
        return Err(fields.value(line, "readiness_path", &settings.readiness_path, same));
    }
    Ok(inner.flag("listener_enabled")?.unwrap_or(false).then_some(settings))
}

fn object<'a>(
    fields: &Fields<'_>,
    key: &str,
    wanted: &'static str,
    value: &'a Value,
) -> Result<&'a [Item], ConfigError> {
    match &value.data {
        Data::Object(items) => Ok(items),
        other => Err(fields.mistyped(value.line, key, wanted, other)),
    }
}

/// A file name in the folder. Also an absolute one is taken as being in it, where there is one, as
/// spiffe-helper has it.
fn join(folder: &Path, name: &str) -> PathBuf {
    let path = if folder.as_os_str().is_empty() {
        PathBuf::from(name)
    } else {
        folder.join(name.trim_start_matches('/'))
    };
    path.components().filter(|part| *part != Component::CurDir).collect()
}

#[cfg(test)]
mod tests;
