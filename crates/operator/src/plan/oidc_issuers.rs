//! Issuers besides the first: each is judged like the first, and all of them together.

use skep_api::crd::oidc::InlineOidc;
use skep_api::crd::parse::CONFLICTING_FIELDS;
use skep_api::runconfig::{FurtherIssuer, IssuerRules, OidcConfig};

use super::findings::Findings;
use super::oidc::{AUTH_INVALID, Authentication, Block, CLUSTER_CA, one_issuer};
use super::oidc_rules::issuers;
use super::oidc_settings::CLUSTER_TOKEN;

/// Most issuers besides the first.
const MAX: usize = 20;
/// What stands before the id of a client that calls for itself.
const CLIENT: &str = "client:";

/// Plans the further issuers of `first` into `planned`.
pub(super) fn plan(
    first: &InlineOidc,
    at: &Block,
    planned: &mut Authentication,
    findings: &mut Findings<'_>,
) {
    let further = first.additional_issuers.as_deref().unwrap_or_default();
    if further.len() > MAX {
        findings.error(
            at.field("additionalIssuers"),
            AUTH_INVALID,
            format!("There are {} further issuers; at most {MAX} are judged.", further.len()),
        );
        return;
    }
    let mut known = issuers(&planned.config.issuer, &planned.rules.tenants);
    let mut prefixes: Vec<&str> = Vec::new();
    let mut introspects = !planned.config.introspection_url.is_empty();
    for (index, entry) in further.iter().enumerate() {
        let at = at.entry("additionalIssuers", index);
        prefix(&entry.subject_prefix, &prefixes, &at, findings);
        prefixes.push(&entry.subject_prefix);
        let mut inline = entry.inline();
        if entry.use_cluster_auth.unwrap_or(false) {
            cluster_auth(&mut inline, &at, findings);
        }
        let mut own = one_issuer(&inline, &at, findings);
        let named = issuers(&own.config.issuer, &own.rules.tenants);
        if let Some(twice) = named.intersection(&known).next() {
            findings.error(
                at.field("issuer"),
                AUTH_INVALID,
                format!("The issuer `{twice}` is here twice, and only one set of rules can hold for its tokens. Keep one."),
            );
        }
        known.extend(named);
        introspector(&own, &at, &mut introspects, findings);
        planned.env.append(&mut own.env);
        planned.files.append(&mut own.files);
        planned.further.push(FurtherIssuer {
            subject_prefix: entry.subject_prefix.clone(),
            oidc_config: own.config,
            rules: own.rules,
        });
    }
}

/// The pod's own credentials for the API server. That nobody else gets them is judged with the rest.
fn cluster_auth(inline: &mut InlineOidc, at: &Block, findings: &mut Findings<'_>) {
    let path = at.field("useClusterAuth");
    if findings.world.is_local() {
        findings.error(
            path,
            AUTH_INVALID,
            "Tokens of ServiceAccounts can only be judged inside a cluster. Remove this issuer here.",
        );
        return;
    }
    let twice = inline.ca_bundle_ref.is_some()
        || inline.thv_ca_bundle_path.is_some()
        || inline.jwks_auth_token_path.is_some();
    if twice {
        findings.error(
            path,
            CONFLICTING_FIELDS,
            "`useClusterAuth` says which CA and which token are used, so `caBundleRef`, `thvCABundlePath` and `jwksAuthTokenPath` have no meaning. Keep one.",
        );
    }
    inline.thv_ca_bundle_path = Some(CLUSTER_CA.to_owned());
    inline.jwks_auth_token_path = Some(CLUSTER_TOKEN.to_owned());
}

/// Puts the first of several audiences where every reader of the format looks, and gives the issuers that
/// name none that of the first issuer.
pub(super) fn settle_audiences(planned: &mut Authentication) {
    let first = |config: &mut OidcConfig, rules: &mut IssuerRules| {
        if config.audience.is_empty() && !rules.audiences.is_empty() {
            config.audience = rules.audiences.remove(0);
        }
    };
    first(&mut planned.config, &mut planned.rules);
    for further in &mut planned.further {
        first(&mut further.oidc_config, &mut further.rules);
        if further.oidc_config.audience.is_empty() {
            further.oidc_config.audience.clone_from(&planned.config.audience);
        }
    }
}

/// A prefix is there so that no two subjects look alike, so none may begin with another.
fn prefix(prefix: &str, others: &[&str], at: &Block, findings: &mut Findings<'_>) {
    let path = at.field("subjectPrefix");
    let blank = |c: char| c.is_control() || c.is_whitespace();
    if prefix.is_empty() || prefix.chars().count() > 64 || prefix.chars().any(blank) {
        findings.error(
            path,
            AUTH_INVALID,
            "A prefix has 1 to 64 characters and no blanks: without one, a user of this issuer could pass for one of another.",
        );
        return;
    }
    let alike = |other: &&str| !other.is_empty() && (other.starts_with(prefix) || prefix.starts_with(other));
    if let Some(other) = others.iter().copied().chain([CLIENT]).find(alike) {
        let whose = if other == CLIENT { "is what clients get" } else { "is another issuer's" };
        findings.error(
            path,
            AUTH_INVALID,
            format!("`{prefix}` and `{other}`, which {whose}, begin alike, so subjects could be mixed up. Choose another."),
        );
    }
}

/// Opaque tokens name no issuer, so only one can be asked about them, with one client secret.
fn introspector(own: &Authentication, at: &Block, introspects: &mut bool, findings: &mut Findings<'_>) {
    if own.config.introspection_url.is_empty() {
        return;
    }
    if *introspects {
        findings.error(
            at.field("introspectionUrl"),
            CONFLICTING_FIELDS,
            "An opaque token names no issuer, so only one can be asked about it. Keep one `introspectionUrl`.",
        );
    }
    *introspects = true;
}
