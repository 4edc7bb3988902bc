//! MCPRemoteProxy.

use skep_api::address::is_loopback;
use skep_api::crd::Object;
use skep_api::crd::remote_proxy::RemoteProxy;
use skep_api::names;
use skep_api::runconfig::{RunConfig, ScalingConfig, Transport};
use url::Url;

use super::access::{self, Caller};
use super::findings::Findings;
use super::oidc::{AUTH_INVALID, Authentication, Written};
use super::outgoing::{self, Callers, NOT_SUPPORTED, User};
use super::remote_url::{self, Allowance, RemoteUrlError};
use super::workload::{self, Protection};
use super::{
    Plan, Planned, Workload, World, authz, backing, membership, naming, objects, oidc, secrets, template,
    tools,
};

/// Plans a remote proxy, in the order in which a reader of the manifest would judge it.
pub(super) fn plan(
    object: &Object,
    spec: &RemoteProxy,
    world: &World,
    mut findings: Findings<'_>,
) -> Planned {
    let name = object.metadata.name.as_str();
    let namespace = object.metadata.namespace.as_str();
    let url = names::remote_proxy_url(name, namespace, spec.port);
    naming::check(object, &mut findings);
    workload::port(spec.port, &mut findings);
    membership::check(spec.group.as_deref(), &mut findings);

    // Where calls go.
    let remote = remote(spec, &mut findings);
    if spec.transport != Transport::StreamableHttp {
        findings.error(
            "spec.transport",
            NOT_SUPPORTED,
            "This version speaks `streamable-http` to remote servers only.",
        );
    }

    // Who may come in.
    access::auth_server(spec.auth_server_ref.as_ref(), &mut findings);
    let written = Written {
        embedded: spec.oidc_config.as_ref(),
        reference: spec.oidc_config_ref.as_ref(),
        service_url: &url,
    };
    let authentication = oidc::plan(&written, &mut findings);
    let says_auth =
        spec.oidc_config.is_some() || spec.oidc_config_ref.is_some() || spec.auth_server_ref.is_some();
    auth_is_said(spec, says_auth, &mut findings);

    // What they may do.
    let authorization =
        authz::plan(name, spec.authz_config.as_ref(), spec.authz_config_ref.as_deref(), &mut findings);
    workload::policies_need_identities(authorization.as_ref(), says_auth, spec.anonymous, &mut findings);
    let tools = tools::plan(spec.tool_config.as_deref(), &[], &mut findings);

    // With what credential calls go on.
    let callers = Callers::of(says_auth, spec.anonymous);
    let mounted = template::mounted(spec.pod_template.as_ref());
    let user = User { name, remote: true, callers, mounted };
    let mut outgoing = outgoing::plan(spec.external_auth.as_deref(), &user, &mut findings);
    outgoing::headers(&spec.header_forward, name, &mut outgoing, &mut findings);
    let audiences = authentication.as_ref().map(Authentication::audiences).unwrap_or_default();
    let caller = Caller { said: spec.client_token, audiences, remote: remote.as_ref() };
    let client_token = access::client_token(&caller, &outgoing, &mut findings);

    // Everything around it.
    workload::not_yet(
        spec.rate_limiting.as_ref(),
        spec.webhook_config.as_deref(),
        says_auth || spec.external_auth.is_some(),
        &mut findings,
    );
    let telemetry =
        backing::telemetry(name, spec.telemetry.as_ref(), spec.telemetry_config_ref.as_ref(), &mut findings);
    workload::session_storage(spec.replicas, spec.session_storage.as_ref(), &mut findings);
    let (session_redis, redis_password) = backing::sessions(spec.session_storage.as_ref(), &mut findings);
    workload::surroundings(&spec.resources, &spec.resource_overrides, &mut findings);
    workload::service_account(spec.service_account.as_deref(), &mut findings);
    workload::allowed_hosts(&spec.allowed_hosts, &mut findings);
    workload::endpoint_prefix(&spec.endpoint_prefix, &mut findings);
    template::check(spec.pod_template.as_ref(), template::Pod::Proxy, &mut findings);

    let protection = Protection {
        authentication,
        authorization,
        tools,
        audit: spec.audit,
        anonymous: spec.anonymous,
        allowed_hosts: spec.allowed_hosts.clone(),
    };
    let mut config = RunConfig::new(name, spec.transport);
    config.remote_url.clone_from(&spec.remote_url);
    config.host.clone_from(&world.settings.proxy_host);
    config.port = spec.port;
    spec.transport.as_str().clone_into(&mut config.proxy_mode);
    config.trust_proxy_headers = spec.trust_proxy_headers;
    config.endpoint_prefix.clone_from(&spec.endpoint_prefix);
    config.group = spec.group.clone().unwrap_or_default();
    protection.apply(&mut config);
    config.skep.client_token = client_token;
    config.skep.allow_private_endpoint = spec.allow_private_endpoint;
    outgoing.apply(&mut config);
    let exchange = &config.skep.token_exchange;
    let sent = [exchange.client_assertion_file.as_str(), exchange.actor_token_file.as_str()];
    let sent: Vec<&str> = sent.into_iter().filter(|file| !file.is_empty()).collect();
    template::tokens(spec.pod_template.as_ref(), &sent, &mut findings);
    config.telemetry_config = telemetry.config;
    config.scaling_config =
        session_redis.map(|redis| ScalingConfig { backend_replicas: None, session_redis: Some(redis) });
    Protection::finish(&mut config);

    let mut env = telemetry.env;
    env.extend(outgoing.env);
    let mut files = telemetry.files;
    files.extend(outgoing.files);
    if let Some(authentication) = &protection.authentication {
        env.extend(authentication.env.iter().cloned());
        files.extend(authentication.files.iter().cloned());
    }
    secrets::mount(&env, &mut config, &mut files);
    env.extend(redis_password);
    let workload = Workload { run_config: config, url, files, env };
    let made = objects::remote_proxy(
        object,
        spec,
        world,
        &workload,
        protection.authorization.as_ref(),
        &mut findings,
    );
    findings.bounds();
    verdict(&mut findings);
    findings.planned(Some(Plan { objects: made, workload: Some(workload) }))
}

fn remote(spec: &RemoteProxy, findings: &mut Findings<'_>) -> Option<Url> {
    let allow = Allowance { private: spec.allow_private_endpoint, loopback: findings.world.is_local() };
    match remote_url::check(&spec.remote_url, allow) {
        Ok(url) => {
            if url.scheme() == "http" && !is_loopback(&url) {
                findings.warning(
                    &spec.remote_url_path,
                    "RemoteURLInsecure",
                    "The URL is plain http; whoever is on the way can read and change every call.",
                );
            }
            Some(url)
        }
        Err(error) => {
            let message = match &error {
                RemoteUrlError::Forbidden(..)
                    if Url::parse(&spec.remote_url).is_ok_and(|url| is_loopback(&url)) =>
                {
                    format!("{error} (`skep up` allows it.)")
                }
                _ => error.to_string(),
            };
            findings.error(&spec.remote_url_path, "RemoteURLInvalid", message);
            None
        }
    }
}

/// A remote proxy that does not say who may come in is refused.
fn auth_is_said(spec: &RemoteProxy, says_auth: bool, findings: &mut Findings<'_>) {
    match (says_auth, spec.anonymous) {
        (false, false) => {
            let message = "Nothing says who may come in. Add `oidcConfigRef` (or `oidcConfig`), or say `authMode: anonymous` to let everybody in.";
            findings.error("spec", "AuthRequired", message);
            findings.fails("AuthConfigured", AUTH_INVALID, message);
        }
        (true, true) => {
            findings.error(
                "spec.authMode",
                skep_api::crd::parse::CONFLICTING_FIELDS,
                "`authMode: anonymous` and an auth config exclude each other. Keep one.",
            );
        }
        (false, true) => {
            if let Some(message) = workload::required_auth(findings.world) {
                findings.error("spec.authMode", "AuthRequired", message);
            }
            findings.fails(
                "AuthConfigured",
                "Anonymous",
                "Everybody may come in without a token; the manifest says so.",
            );
        }
        (true, false) => {}
    }
}

fn verdict(findings: &mut Findings<'_>) {
    match findings.problems.iter().find(|problem| problem.is_error()).cloned() {
        None => findings.holds("ConfigurationValid", "ConfigurationValid", "The configuration is valid."),
        Some(problem) => findings.fails(
            "ConfigurationValid",
            &problem.reason,
            format!("{}: {}", problem.path, problem.message),
        ),
    }
}
