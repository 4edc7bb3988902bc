//! How incoming tokens are judged: from any of the places where it can be written to `oidc_config`.

use skep_api::address::is_loopback;
use skep_api::condition::ConditionStatus;
use skep_api::crd::oidc::{
    CLUSTER_AUDIENCE, CLUSTER_ISSUER, EmbeddedOidc, EmbeddedOidcSource, InlineOidc, KubernetesOidc,
    OidcConfigSpec, OidcSource,
};
use skep_api::crd::parse::{CONFLICTING_FIELDS, INVALID_FIELD};
use skep_api::crd::reference::OidcConfigRef;
use skep_api::crd::{Kind, Spec};
use skep_api::runconfig::{FurtherIssuer, IssuerRules, OidcConfig};

use super::findings::{Findings, OIDC_REF};
use super::oidc_settings::{
    CLUSTER_TOKEN, Endpoint, algorithms, api_server_alone, ca_bundle, clock_skew, endpoint, introspection,
    is_api_server, resource_url, token_file,
};
use super::{EnvSource, FileSource, oidc_config_map, oidc_issuers, oidc_rules};

/// Reason of everything that is wrong with how callers are authenticated.
pub(super) const AUTH_INVALID: &str = "AuthInvalid";
pub(super) const CLUSTER_CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
/// Scope that clients are told to ask for when nothing is said.
const DEFAULT_SCOPE: &str = "openid";

/// What follows from an OIDC config.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Authentication {
    pub(super) config: OidcConfig,
    pub(super) rules: IssuerRules,
    pub(super) further: Vec<FurtherIssuer>,
    pub(super) files: Vec<FileSource>,
    pub(super) env: Vec<EnvSource>,
}

impl Authentication {
    /// All audiences that a token may be made for, of all issuers.
    pub(super) fn audiences(&self) -> Vec<&str> {
        let further = self.further.iter().flat_map(|further| {
            std::iter::once(&further.oidc_config.audience).chain(&further.rules.audiences)
        });
        std::iter::once(&self.config.audience)
            .chain(&self.rules.audiences)
            .chain(further)
            .map(String::as_str)
            .filter(|audience| !audience.is_empty())
            .collect()
    }
}

/// The two places in a workload's spec.
pub(super) struct Written<'s> {
    pub(super) embedded: Option<&'s EmbeddedOidc>,
    pub(super) reference: Option<&'s OidcConfigRef>,
    /// URL of the workload's Service, the resource when none is said.
    pub(super) service_url: &'s str,
}

/// Plans authentication. `None` when nothing is written, or when it is wrong.
pub(super) fn plan(written: &Written<'_>, findings: &mut Findings<'_>) -> Option<Authentication> {
    let errors = findings.errors();
    let mut planned = match (written.embedded, written.reference) {
        (Some(_), Some(_)) => {
            findings.error(
                "spec.oidcConfigRef",
                CONFLICTING_FIELDS,
                "`oidcConfig` and `oidcConfigRef` are both given. Keep one.",
            );
            None
        }
        (Some(embedded), None) => from_embedded(embedded, findings),
        (None, Some(reference)) => from_reference(reference, findings),
        (None, None) => None,
    };
    if let Some(planned) = &mut planned {
        // On this machine the proxy knows its own address better than any Service name.
        if planned.config.resource_url.is_empty() && !findings.world.is_local() {
            written.service_url.clone_into(&mut planned.config.resource_url);
        }
        if planned.config.scopes.is_empty() {
            planned.config.scopes.push(DEFAULT_SCOPE.to_owned());
            let required = planned.rules.required_scopes.iter().filter(|scope| *scope != DEFAULT_SCOPE);
            planned.config.scopes.extend(required.cloned());
        }
        oidc_issuers::settle_audiences(planned);
    }
    if findings.errors() > errors {
        if let Some(problem) = findings.problems.iter().rev().find(|problem| problem.is_error()).cloned() {
            findings.fails("AuthConfigured", AUTH_INVALID, problem.message);
        }
        return None;
    }
    planned
}

fn from_reference(reference: &OidcConfigRef, findings: &mut Findings<'_>) -> Option<Authentication> {
    let path = "spec.oidcConfigRef";
    if reference.audience.is_empty() {
        findings.error(
            format!("{path}.audience"),
            AUTH_INVALID,
            "The audience is missing: without it, tokens made for others would be let in.",
        );
    }
    let named = findings.config(Kind::MCPOIDCConfig, &reference.name, &format!("{path}.name"), OIDC_REF);
    let Some(object) = named else {
        bundle_of(&reference.name, findings);
        return None;
    };
    let Spec::OidcConfig(spec) = &object.spec else { return None };
    if let Some((_, other)) = said_audience(spec).filter(|(_, other)| *other != reference.audience) {
        findings.error(
            format!("{path}.audience"),
            AUTH_INVALID,
            format!("The MCPOIDCConfig `{}` says the audience `{other}`, and only the one that is said here counts. Remove it there.", reference.name),
        );
    }
    let mut planned = from_spec(spec, findings, Some(&format!("{path}.name")))?;
    planned.config.audience.clone_from(&reference.audience);
    resource_url(reference.resource_url.as_deref(), &format!("{path}.resourceUrl"), &mut planned, findings);
    if let Some(scopes) = &reference.scopes {
        planned.config.scopes.clone_from(scopes);
    }
    Some(planned)
}

/// A CA bundle that is missing makes the shared config invalid, and is a condition of the workload besides.
fn bundle_of(name: &str, findings: &mut Findings<'_>) {
    let world = findings.world;
    let Some(Spec::OidcConfig(spec)) = world.config(Kind::MCPOIDCConfig, name).map(|config| &config.spec)
    else {
        return;
    };
    let mut aside = Findings::new(world);
    from_spec(spec, &mut aside, None);
    let bundle =
        aside.planned(None).conditions.into_iter().find(|found| found.kind == "CABundleRefValidated");
    if let Some(bundle) = bundle.filter(|bundle| bundle.status == ConditionStatus::False) {
        findings.fails("CABundleRefValidated", &bundle.reason, bundle.message);
    }
}

/// Judges a shared config by itself. For whom tokens are made is said where it is referred to: said here it
/// would hold for every workload, and a token for one would be good for all.
pub(super) fn check(spec: &OidcConfigSpec, findings: &mut Findings<'_>) {
    from_spec(spec, findings, None);
    if let Some((path, _)) = said_audience(spec) {
        findings.warning(
            path,
            "AudienceIgnored",
            "The audience is said where this is referred to, in `oidcConfigRef.audience`. Here it has no effect; remove it.",
        );
    }
    let widened = spec.inline.as_ref().and_then(|inline| inline.audiences.as_ref());
    if widened.is_some_and(|audiences| !audiences.is_empty()) {
        findings.error(
            "spec.inline.audiences",
            AUTH_INVALID,
            "They would hold for every workload that refers to this. Remove them; a workload that takes several audiences says so in an `oidcConfig` of its own.",
        );
    }
}

fn said_audience(spec: &OidcConfigSpec) -> Option<(&'static str, &str)> {
    let inline = spec.inline.as_ref().and_then(|block| block.audience.as_deref());
    let cluster = spec.kubernetes_service_account.as_ref().and_then(|block| block.audience.as_deref());
    [("spec.inline.audience", inline), ("spec.kubernetesServiceAccount.audience", cluster)]
        .into_iter()
        .find_map(|(path, audience)| Some((path, audience.filter(|audience| !audience.is_empty())?)))
}

/// Plans a shared config. `at` replaces the paths when it is looked at from a workload.
pub(super) fn from_spec(
    spec: &OidcConfigSpec,
    findings: &mut Findings<'_>,
    at: Option<&str>,
) -> Option<Authentication> {
    let path = |block: &str| at.map_or_else(|| format!("spec.{block}"), ToOwned::to_owned);
    match (spec.kind, &spec.inline, &spec.kubernetes_service_account) {
        (OidcSource::Inline, Some(inline), None) => {
            Some(from_inline(inline, &Block::of(path("inline"), at.is_some()), findings))
        }
        (OidcSource::KubernetesServiceAccount, None, block) => {
            let block = block.clone().unwrap_or_default();
            from_cluster(&block, &Block::of(path("kubernetesServiceAccount"), at.is_some()), findings)
        }
        (OidcSource::Inline, None, _) => {
            findings.error(
                path("inline"),
                INVALID_FIELD,
                "`type` is `inline`, which needs the block `inline`.",
            );
            None
        }
        (OidcSource::Inline, Some(_), Some(_)) => {
            findings.error(
                path("kubernetesServiceAccount"),
                CONFLICTING_FIELDS,
                "`type` is `inline`, so this block has no meaning. Remove it.",
            );
            None
        }
        (OidcSource::KubernetesServiceAccount, Some(_), _) => {
            findings.error(
                path("inline"),
                CONFLICTING_FIELDS,
                "`type` is `kubernetesServiceAccount`, so this block has no meaning. Remove it.",
            );
            None
        }
    }
}

fn from_embedded(embedded: &EmbeddedOidc, findings: &mut Findings<'_>) -> Option<Authentication> {
    let at = "spec.oidcConfig";
    let kind = embedded.kind.unwrap_or_default();
    for (block, there, wanted) in [
        ("inline", embedded.inline.is_some(), EmbeddedOidcSource::Inline),
        ("configMap", embedded.config_map.is_some(), EmbeddedOidcSource::ConfigMap),
        ("kubernetes", embedded.kubernetes.is_some(), EmbeddedOidcSource::Kubernetes),
    ] {
        if there && wanted != kind {
            let message = if embedded.kind.is_none() {
                format!(
                    "`type` is missing, which means `kubernetes`, so this block has no meaning. Add `type: {block}`."
                )
            } else {
                "`type` names another block, so this one has no meaning. Remove it, or change `type`."
                    .to_owned()
            };
            findings.error(format!("{at}.{block}"), CONFLICTING_FIELDS, message);
            return None;
        }
    }
    let mut planned = match kind {
        EmbeddedOidcSource::Kubernetes => {
            let block = embedded.kubernetes.clone().unwrap_or_default();
            from_cluster(&block, &Block::of(format!("{at}.kubernetes"), false), findings)?
        }
        EmbeddedOidcSource::Inline => {
            let Some(inline) = &embedded.inline else {
                findings.error(
                    format!("{at}.inline"),
                    INVALID_FIELD,
                    "`type` is `inline`, which needs the block `inline`.",
                );
                return None;
            };
            from_inline(inline, &Block::of(format!("{at}.inline"), false), findings)
        }
        EmbeddedOidcSource::ConfigMap => oidc_config_map::plan(embedded, findings)?,
    };
    resource_url(embedded.resource_url.as_deref(), &format!("{at}.resourceUrl"), &mut planned, findings);
    if planned.config.audience.is_empty() && planned.rules.audiences.is_empty() {
        if planned.config.resource_url.is_empty() {
            let path = if kind == EmbeddedOidcSource::ConfigMap { "configMap" } else { "inline.audience" };
            findings.error(
                format!("{at}.{path}"),
                AUTH_INVALID,
                "The audience is missing, and there is no `resourceUrl` to take its place: tokens made for others would be let in.",
            );
            return None;
        }
        planned.config.audience.clone_from(&planned.config.resource_url);
    }
    Some(planned)
}

/// Where settings stand, for the paths of problems.
pub(super) struct Block {
    block: String,
    /// The settings are not in this object, so a field of them has no path of its own.
    elsewhere: bool,
}

impl Block {
    pub(super) fn of(block: String, elsewhere: bool) -> Self {
        Self { block, elsewhere }
    }

    /// Settings in an entry of a list in these.
    pub(super) fn entry(&self, list: &str, index: usize) -> Self {
        if self.elsewhere {
            return Self { block: self.block.clone(), elsewhere: true };
        }
        Self { block: format!("{}.{list}[{index}]", self.block), elsewhere: false }
    }

    pub(super) fn field(&self, name: &str) -> String {
        if self.elsewhere { self.block.clone() } else { format!("{}.{name}", self.block) }
    }
}

pub(super) fn from_inline(inline: &InlineOidc, at: &Block, findings: &mut Findings<'_>) -> Authentication {
    let mut planned = one_issuer(inline, at, findings);
    oidc_issuers::plan(inline, at, &mut planned, findings);
    planned
}

/// Plans one issuer, without those beside it.
pub(super) fn one_issuer(inline: &InlineOidc, at: &Block, findings: &mut Findings<'_>) -> Authentication {
    let insecure = inline.insecure_allow_http.unwrap_or(false);
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let called = !given(&inline.jwks_url) && !given(&inline.discovery_url);
    let issuer =
        endpoint(&inline.issuer, &at.field("issuer"), Endpoint::Issuer { called }, insecure, findings);
    let jwks = inline
        .jwks_url
        .as_deref()
        .and_then(|url| endpoint(url, &at.field("jwksUrl"), Endpoint::Jwks, insecure, findings));
    let local_http = findings.world.is_local() && [&issuer, &jwks].into_iter().flatten().any(is_loopback);
    let mut planned = Authentication {
        config: OidcConfig {
            issuer: inline.issuer.clone(),
            audience: inline.audience.clone().unwrap_or_default(),
            jwks_url: inline.jwks_url.clone().unwrap_or_default(),
            client_id: inline.client_id.clone().unwrap_or_default(),
            ca_cert_path: inline.thv_ca_bundle_path.clone().unwrap_or_default(),
            allow_private_ip: inline.jwks_allow_private_ip.unwrap_or(false)
                || inline.protected_resource_allow_private_ip.unwrap_or(false)
                || local_http,
            insecure_allow_http: insecure || local_http,
            introspection_url: inline.introspection_url.clone().unwrap_or_default(),
            scopes: inline.scopes.clone().unwrap_or_default(),
            ..OidcConfig::default()
        },
        ..Authentication::default()
    };
    if insecure && !findings.world.is_local() {
        findings.warning(at.field("insecureAllowHTTP"), "OIDCIssuerInsecure", "Keys may be fetched over plain http; whoever is on the way can then make tokens. For development only.");
    }
    ca_bundle(inline.ca_bundle_ref.as_ref(), at, &mut planned, findings);
    token_file(inline, at, issuer.as_ref(), jwks.as_ref(), &mut planned, findings);
    introspection(inline, at, &mut planned, findings);
    if inline.jwks_auth_token_path.is_none() {
        let discovery = inline.discovery_url.as_deref().unwrap_or_default();
        api_server_alone(&planned.config, discovery, at, findings);
    }
    algorithms(inline, at, &mut planned, findings);
    clock_skew(inline, at, &mut planned, findings);
    oidc_rules::plan(inline, at, &mut planned.rules, findings);
    planned
}

fn from_cluster(block: &KubernetesOidc, at: &Block, findings: &mut Findings<'_>) -> Option<Authentication> {
    if findings.world.is_local() {
        findings.error(
            at.block.clone(),
            AUTH_INVALID,
            "Tokens of ServiceAccounts can only be judged inside a cluster; use `inline` here.",
        );
        return None;
    }
    let cluster_auth = block.use_cluster_auth.unwrap_or(true);
    let issuer =
        block.issuer.clone().filter(|issuer| !issuer.is_empty()).unwrap_or_else(|| CLUSTER_ISSUER.to_owned());
    let jwks_url = block.jwks_url.clone().unwrap_or_default();
    let called = jwks_url.is_empty();
    endpoint(&issuer, &at.field("issuer"), Endpoint::Issuer { called }, false, findings);
    if !jwks_url.is_empty() {
        endpoint(&jwks_url, &at.field("jwksUrl"), Endpoint::Jwks, false, findings);
    }
    restricts_nobody(block, at, findings);
    let mut config = OidcConfig {
        issuer,
        audience: block
            .audience
            .clone()
            .filter(|audience| !audience.is_empty())
            .unwrap_or_else(|| CLUSTER_AUDIENCE.to_owned()),
        jwks_url,
        introspection_url: block.introspection_url.clone().unwrap_or_default(),
        ..OidcConfig::default()
    };
    if cluster_auth {
        CLUSTER_CA.clone_into(&mut config.ca_cert_path);
        config.allow_private_ip = true;
        // The pod's own token is for the API server alone. It has the keys of issuers with other names too.
        if is_api_server(if called { &config.issuer } else { &config.jwks_url }) {
            CLUSTER_TOKEN.clone_into(&mut config.auth_token_file);
        }
        if !config.introspection_url.is_empty() && !is_api_server(&config.introspection_url) {
            findings.error(
                at.field("introspectionUrl"),
                AUTH_INVALID,
                "The pod's own token would be sent there, and it is for the API server alone. Say `useClusterAuth: false`, or use `inline`.",
            );
            return None;
        }
    }
    api_server_alone(&config, "", at, findings);
    if !config.introspection_url.is_empty() {
        let path = at.field("introspectionUrl");
        endpoint(&config.introspection_url, &path, Endpoint::Introspection, false, findings);
    }
    Some(Authentication { config, ..Authentication::default() })
}

/// Whoever names an account means it as a restriction, which it has never been.
fn restricts_nobody(block: &KubernetesOidc, at: &Block, findings: &mut Findings<'_>) {
    let given = |text: &'_ Option<String>| text.clone().filter(|text| !text.is_empty());
    let (account, namespace) = (given(&block.service_account), given(&block.namespace));
    let field = match (&account, &namespace) {
        (None, None) => return,
        (Some(_), _) => "serviceAccount",
        (None, Some(_)) => "namespace",
    };
    let subject = format!(
        "system:serviceaccount:{}:{}",
        namespace.as_deref().unwrap_or("NAMESPACE"),
        account.as_deref().unwrap_or("NAME")
    );
    findings.warning(
        at.field(field),
        "ServiceAccountNotRestricting",
        format!("This restricts nobody: every ServiceAccount whose token has the audience is let in. To let in this one only, add a policy such as `permit(principal == Client::\"{subject}\", action, resource);`."),
    );
}
