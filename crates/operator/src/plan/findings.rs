//! What planning has found so far.

use skep_api::condition::{Condition, ConditionStatus};
use skep_api::crd::parse::INVALID_FIELD;
use skep_api::crd::{Kind, Object};
use skep_api::names;
use skep_api::problem::Problem;

use super::{Missing, Plan, Planned, World};

/// Problems and conditions of one object while it is planned.
pub(super) struct Findings<'a> {
    pub(super) world: &'a World,
    pub(super) problems: Vec<Problem>,
    conditions: Vec<Condition>,
    /// What the bounds of the schema refuse, as long as it is not said.
    pub(super) bounds: Vec<Problem>,
    /// Something that the plan needs is not known, and that is not an error here.
    incomplete: bool,
}

impl<'a> Findings<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        Self { world, problems: Vec::new(), conditions: Vec::new(), bounds: Vec::new(), incomplete: false }
    }

    pub(super) fn error(&mut self, path: impl Into<String>, reason: &str, message: impl Into<String>) {
        self.problems.push(Problem::error(path, reason, message));
    }

    pub(super) fn warning(&mut self, path: impl Into<String>, reason: &str, message: impl Into<String>) {
        self.problems.push(Problem::warning(path, reason, message));
    }

    /// Sets a condition that holds.
    pub(super) fn holds(&mut self, kind: &str, reason: &str, message: impl Into<String>) {
        self.set(Condition::yes(kind, reason, message));
    }

    /// Sets a condition that does not hold.
    pub(super) fn fails(&mut self, kind: &str, reason: &str, message: impl Into<String>) {
        self.set(Condition::no(kind, reason, message));
    }

    fn set(&mut self, condition: Condition) {
        match self.conditions.iter_mut().find(|other| other.kind == condition.kind) {
            Some(other) => *other = condition,
            None => self.conditions.push(condition),
        }
    }

    /// Sets a condition that holds, unless an earlier step has said that it does not.
    pub(super) fn holds_too(&mut self, kind: &str, reason: &str, message: impl Into<String>) {
        if !self.conditions.iter().any(|condition| condition.kind == kind) {
            self.holds(kind, reason, message);
        }
    }

    /// Drops a condition when it holds.
    pub(super) fn forget_what_holds(&mut self, kind: &str) {
        self.conditions
            .retain(|condition| condition.kind != kind || condition.status != ConditionStatus::True);
    }

    pub(super) fn has_errors(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }

    /// The number of errors so far, to see later whether a step has added some.
    pub(super) fn errors(&self) -> usize {
        self.problems.iter().filter(|problem| problem.is_error()).count()
    }

    /// Says that something is not there.
    pub(super) fn absence(&self, what: &str) -> String {
        match self.world.settings.missing {
            Missing::Refuse => format!("{what} does not exist in this namespace."),
            Missing::Warn => format!("{what} is not in the given files."),
            Missing::Later => format!("{what} does not exist in this namespace (yet)."),
        }
    }

    /// Says what the bounds of the schema refuse, where nothing is said of the same field yet. To be called
    /// before a condition is made of the first error.
    pub(super) fn bounds(&mut self) {
        for bound in std::mem::take(&mut self.bounds) {
            let within = |path: &str| {
                path.strip_prefix(&bound.path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            if !self.problems.iter().any(|problem| problem.is_error() && within(&problem.path)) {
                self.problems.push(bound);
            }
        }
    }

    /// A reference leads nowhere, and the plan can't be made without what it names.
    pub(super) fn missing(&mut self, path: impl Into<String>, reason: &str, what: &str) {
        self.incomplete = true;
        self.missing_detail(path, reason, what);
    }

    /// A reference leads nowhere, but the plan does not depend on the content.
    pub(super) fn missing_detail(&mut self, path: impl Into<String>, reason: &str, what: &str) {
        let message = self.absence(what);
        match self.world.settings.missing {
            Missing::Refuse => self.error(path, reason, message),
            Missing::Warn | Missing::Later => self.warning(path, reason, message),
        }
    }

    /// A key of a Secret that has to exist. Name and key become parts of paths, so they have to be what
    /// Kubernetes takes.
    pub(super) fn secret(&mut self, path: &str, reason: &str, name: &str, key: &str) {
        if !names::is_dns_subdomain(name) || !names::is_data_key(key) {
            // Whoever writes a secret itself in place of its name should not find it in a status.
            let what = if names::is_dns_subdomain(name) { "key" } else { "name" };
            let message = format!(
                "No Secret can have this {what}. Give the name of a Secret and the key in it, not the value."
            );
            self.error(path, INVALID_FIELD, message);
            return;
        }
        match self.world.secrets.get(name) {
            None => self.missing_detail(path, reason, &format!("The Secret `{name}`")),
            Some(keys) if !keys.contains(key) => {
                self.missing_detail(path, reason, &format!("The key `{key}` of the Secret `{name}`"));
            }
            Some(_) => {}
        }
    }

    /// Several keys of one Secret. One that does not exist at all is said once.
    pub(super) fn secret_keys(&mut self, path: &str, reason: &str, name: &str, keys: &[&str]) {
        let there = self.world.secrets.contains_key(name);
        for key in keys.iter().take(if there { keys.len() } else { 1 }) {
            self.secret(path, reason, name, key);
        }
    }

    /// The config that a reference names, when it exists and has no error. Otherwise says so, and the
    /// object is not planned without it.
    pub(super) fn config(
        &mut self,
        kind: Kind,
        name: &str,
        path: &str,
        reasons: Reasons,
    ) -> Option<&'a Object> {
        let world = self.world;
        let Some(object) = world.config(kind, name) else {
            self.missing(path, reasons.not_found, &format!("The {kind} `{name}`"));
            self.fails(reasons.condition, reasons.not_found, format!("The {kind} `{name}` does not exist."));
            return None;
        };
        let planned = super::plan_object(object, world);
        if let Some(problem) = planned.problems.iter().find(|problem| problem.is_error()) {
            let message = format!("The {kind} `{name}` is not valid: {}: {}", problem.path, problem.message);
            let valid = planned.conditions.iter().find(|condition| condition.kind == "Valid");
            // ToolHive repeats the config's own reason for this kind only.
            let reason = match valid {
                Some(valid) if kind == Kind::MCPExternalAuthConfig => valid.reason.as_str(),
                _ => reasons.not_valid,
            };
            self.error(path, reason, message.clone());
            self.fails(reasons.condition, reason, message);
            return None;
        }
        self.holds(reasons.condition, reasons.valid, format!("The {kind} `{name}` is valid."));
        Some(object)
    }

    /// The result. There is no plan when there is an error, or when something it needs is not known.
    pub(super) fn planned(mut self, plan: Option<Plan>) -> Planned {
        self.bounds();
        let refused = self.has_errors() || self.incomplete;
        Planned {
            plan: plan.filter(|_| !refused),
            problems: self.problems,
            conditions: self.conditions,
            ..Planned::default()
        }
    }
}

/// The condition of a kind of reference, and its reasons.
#[derive(Clone, Copy)]
pub(super) struct Reasons {
    pub(super) condition: &'static str,
    pub(super) valid: &'static str,
    pub(super) not_found: &'static str,
    pub(super) not_valid: &'static str,
}

/// Reasons of `oidcConfigRef`.
pub(super) const OIDC_REF: Reasons = Reasons {
    condition: "OIDCConfigRefValidated",
    valid: "OIDCConfigRefValid",
    not_found: "OIDCConfigRefNotFound",
    not_valid: "OIDCConfigRefNotValid",
};

/// Reasons of `authzConfigRef`.
pub(super) const AUTHZ_REF: Reasons = Reasons {
    condition: "AuthzConfigRefValidated",
    valid: "AuthzConfigRefValid",
    not_found: "AuthzConfigRefNotFound",
    not_valid: "AuthzConfigRefNotValid",
};

/// Reasons of `toolConfigRef`.
pub(super) const TOOL_REF: Reasons = Reasons {
    condition: "ToolConfigValidated",
    valid: "ToolConfigValid",
    not_found: "ToolConfigNotFound",
    not_valid: "ToolConfigNotValid",
};

/// Reasons of `externalAuthConfigRef`.
pub(super) const EXTERNAL_AUTH_REF: Reasons = Reasons {
    condition: "ExternalAuthConfigValidated",
    valid: "ExternalAuthConfigValid",
    not_found: "ExternalAuthConfigNotFound",
    not_valid: "InvalidExternalAuthConfig",
};
