//! The credential for what lies behind the proxy, and headers that are added on the way.

mod aws;
mod exchange;
mod headers;

use serde_json::{Value, json};
use skep_api::crd::external_auth::{ExternalAuth, ExternalAuthType};
use skep_api::crd::{Kind, Spec};
use skep_api::names::{header_secret, secret_env};
use skep_api::runconfig::{
    AwsExtension, AwsStsConfig, GrantType, HeaderForward, RunConfig, TokenExchangeConfig,
    TokenExchangeExtension,
};

use super::findings::{EXTERNAL_AUTH_REF, Findings};
use super::{EnvSource, FileSource, embedded_auth};

pub(super) use self::headers::forward as headers;

/// Reason of what is understood but that this version does not run.
pub(super) const NOT_SUPPORTED: &str = "NotSupported";
/// Reason of what is planned but that this version's proxy refuses to start with.
pub(super) const NOT_YET_RUNNABLE: &str = "NotYetRunnable";
/// Reason of what ToolHive has in a paid build only, and skep not at all.
pub(super) const ENTERPRISE_REQUIRED: &str = "EnterpriseRequired";

/// What is sent to the backend besides the request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Outgoing {
    /// An externalAuthConfigRef is given, so the caller's token never goes further.
    pub(super) configured: bool,
    pub(super) headers: HeaderForward,
    remote_auth: Option<Value>,
    token_exchange: Option<TokenExchangeConfig>,
    exchange_extension: TokenExchangeExtension,
    aws_sts: Option<AwsStsConfig>,
    aws_extension: AwsExtension,
    pub(super) files: Vec<FileSource>,
    pub(super) env: Vec<EnvSource>,
}

impl Outgoing {
    /// Writes the credential into a RunConfig.
    pub(super) fn apply(&self, config: &mut RunConfig) {
        config.remote_auth_config.clone_from(&self.remote_auth);
        config.token_exchange_config.clone_from(&self.token_exchange);
        config.aws_sts_config.clone_from(&self.aws_sts);
        config.header_forward =
            Some(self.headers.clone()).filter(|headers| *headers != HeaderForward::default());
        config.skep.token_exchange.clone_from(&self.exchange_extension);
        config.skep.aws.clone_from(&self.aws_extension);
    }

    /// True when all callers share one credential.
    pub(super) fn is_fixed(&self) -> bool {
        self.remote_auth.is_some() || !self.headers.add_headers_from_secret.is_empty()
    }

    /// Header that the credential stands in, unless it is a fixed header with a name of its own.
    fn credential_header(&self) -> Option<String> {
        let authorization = || "Authorization".to_owned();
        match &self.token_exchange {
            Some(exchange) if exchange.external_token_header_name.is_empty() => Some(authorization()),
            Some(exchange) => Some(exchange.external_token_header_name.clone()),
            None => (self.remote_auth.is_some() || self.aws_sts.is_some()).then(authorization),
        }
    }
}

/// Who uses the credential.
pub(super) struct User<'s> {
    pub(super) name: &'s str,
    /// True for a remote proxy, false for an MCPServer, which knows fewer types.
    pub(super) remote: bool,
    pub(super) callers: Callers,
    /// Directories that the manifest mounts into the proxy's container.
    pub(super) mounted: Vec<String>,
}

/// What a manifest says of its callers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Callers {
    /// They come with a token.
    Token,
    /// They need none, and the manifest says so in words.
    Anonymous,
    /// Nothing is said.
    Unsaid,
}

impl Callers {
    pub(super) fn of(says_auth: bool, anonymous: bool) -> Self {
        match (says_auth, anonymous) {
            (true, _) => Self::Token,
            (false, true) => Self::Anonymous,
            (false, false) => Self::Unsaid,
        }
    }
}

/// Plans the outgoing credential that `externalAuthConfigRef` names.
pub(super) fn plan(reference: Option<&str>, user: &User<'_>, findings: &mut Findings<'_>) -> Outgoing {
    let mut outgoing = Outgoing::default();
    let Some(name) = reference else { return outgoing };
    outgoing.configured = true;
    let path = "spec.externalAuthConfigRef.name";
    let Some(object) = findings.config(Kind::MCPExternalAuthConfig, name, path, EXTERNAL_AUTH_REF) else {
        return outgoing;
    };
    let Spec::ExternalAuth(config) = &object.spec else { return outgoing };
    match &**config {
        ExternalAuth::Unauthenticated => {}
        ExternalAuth::HeaderInjection(injection) => {
            for_everybody(path, user.callers, findings);
            let secret = &injection.value_secret_ref;
            findings.secret(path, "HeaderSecretNotFound", &secret.name, &secret.key);
            let identifier = header_secret(&injection.header_name, user.name);
            outgoing.env.push(EnvSource {
                name: secret_env(&identifier),
                secret: secret.name.clone(),
                key: secret.key.clone(),
            });
            outgoing.headers.add_headers_from_secret.insert(injection.header_name.clone(), identifier);
        }
        ExternalAuth::BearerToken(bearer) => {
            for_everybody(path, user.callers, findings);
            let secret = &bearer.token_secret_ref;
            findings.secret(path, "ExternalAuthSecretNotFound", &secret.name, &secret.key);
            outgoing.env.push(EnvSource {
                name: secret_env(&secret.name),
                secret: secret.name.clone(),
                key: secret.key.clone(),
            });
            outgoing.remote_auth = Some(json!({
                "bearer_token": format!("{},target=bearer_token", secret.name),
                "use_pkce": false,
            }));
        }
        ExternalAuth::TokenExchange(exchange) => {
            let needs_caller = exchange.grant_type == GrantType::TokenExchange;
            a_caller(path, needs_caller, "exchange", user.callers, findings);
            if let Some(file) = exchange::svid(exchange) {
                spiffe_file(path, file, user, findings);
            }
            exchange::plan(exchange, path, &mut outgoing, findings);
        }
        ExternalAuth::AwsSts(_) if !user.remote => {
            let message = "AWS signs requests to a remote server, and an MCPServer's own container is none. Use an MCPRemoteProxy, or remove the reference.";
            refuse(path, NOT_SUPPORTED, message.to_owned(), findings);
        }
        ExternalAuth::AwsSts(aws) => {
            a_caller(path, true, "present to AWS", user.callers, findings);
            let (config, extension, files) = aws::plan(aws, path, findings);
            outgoing.aws_sts = Some(config);
            outgoing.aws_extension = extension;
            outgoing.files.extend(files);
        }
        ExternalAuth::EmbeddedAuthServer(_)
        | ExternalAuth::UpstreamInject(_)
        | ExternalAuth::Obo(_)
        | ExternalAuth::Xaa(_) => {
            let kind = config.kind();
            let reason = if kind == ExternalAuthType::Obo { ENTERPRISE_REQUIRED } else { NOT_SUPPORTED };
            refuse(path, reason, not_run(kind), findings);
        }
    }
    outgoing
}

/// Why a type is not run, and what to use instead.
pub(super) fn not_run(kind: ExternalAuthType) -> String {
    let instead = match kind {
        ExternalAuthType::EmbeddedAuthServer => {
            "For callers, use `oidcConfigRef` with an identity provider of your own; for the backend, `tokenExchange`."
        }
        ExternalAuthType::UpstreamInject => {
            "It hands on tokens that an embedded authorization server holds, which there is none of. Use `tokenExchange`, or `bearerToken` for one credential for all callers."
        }
        ExternalAuthType::Obo => {
            "ToolHive runs it in its enterprise build only. Use `tokenExchange` at an identity provider that knows RFC 8693, or its `grantType: client_credentials` for one credential for all callers."
        }
        ExternalAuthType::Xaa => {
            "Use `tokenExchange` at the target's own token endpoint, or at an identity provider that the target trusts."
        }
        _ => "Use another type.",
    };
    format!("This version does not run the type `{}`. {instead}", kind.as_str())
}

fn refuse(path: &str, reason: &str, message: String, findings: &mut Findings<'_>) {
    let condition = if reason == ENTERPRISE_REQUIRED { reason } else { EXTERNAL_AUTH_REF.not_valid };
    findings.fails(EXTERNAL_AUTH_REF.condition, condition, message.clone());
    findings.error(path, reason, message);
}

/// What is made of a caller's token needs callers who have one.
fn a_caller(path: &str, needed: bool, what: &str, callers: Callers, findings: &mut Findings<'_>) {
    match callers {
        Callers::Token => {}
        Callers::Unsaid => {
            let why = if needed {
                format!("There is no caller's token to {what}")
            } else {
                "Everybody who reaches the proxy would use this one credential".to_owned()
            };
            findings.error(
                path,
                "CallerRequired",
                format!("{why}, because no incoming auth is configured. Add `oidcConfigRef`, or say `authMode: anonymous`."),
            );
        }
        Callers::Anonymous if needed => findings.warning(
            path,
            "NoTokenToExchange",
            format!("Every call will be answered with 401: callers are anonymous, so there is no token to {what}. Add `oidcConfigRef`; or, for one credential for all callers, use a `tokenExchange` with `grantType: client_credentials`."),
        ),
        Callers::Anonymous => {}
    }
}

/// One credential for all callers is fine, as long as it is known that they are all.
fn for_everybody(path: &str, callers: Callers, findings: &mut Findings<'_>) {
    if callers == Callers::Unsaid {
        findings.warning(
            path,
            "CredentialForEverybody",
            "Everybody who reaches the proxy uses this one credential, because no incoming auth is configured. Add `oidcConfigRef`, or say `authMode: anonymous` if that is intended.",
        );
    }
}

/// Somebody has to write the JWT-SVID into the pod.
fn spiffe_file(path: &str, file: &str, user: &User<'_>, findings: &mut Findings<'_>) {
    let covers = |mount: &String| {
        let mount = mount.trim_end_matches('/');
        !mount.is_empty() && file.strip_prefix(mount).is_some_and(|rest| rest.starts_with('/'))
    };
    if findings.world.is_local() || user.mounted.iter().any(covers) {
        return;
    }
    let how = if user.remote { "in `podTemplateSpec`" } else { "with a webhook that injects one" };
    findings.warning(
        path,
        "SpiffeFileNeeded",
        format!("The proxy reads its JWT-SVID from `{file}`, and nothing in the manifest puts one there. Add a SPIFFE helper and its volume {how}; the proxy does not start before the file is there."),
    );
}

/// Judges an MCPExternalAuthConfig by itself.
pub(super) fn check(config: &ExternalAuth, findings: &mut Findings<'_>) {
    match config {
        ExternalAuth::Unauthenticated
        | ExternalAuth::UpstreamInject(_)
        | ExternalAuth::Obo(_)
        | ExternalAuth::Xaa(_) => {}
        ExternalAuth::EmbeddedAuthServer(server) => embedded_auth::check(server, findings),
        ExternalAuth::BearerToken(bearer) => {
            let secret = &bearer.token_secret_ref;
            findings.secret("spec.bearerToken.tokenSecretRef", "SecretNotFound", &secret.name, &secret.key);
        }
        ExternalAuth::HeaderInjection(injection) => {
            headers::check_name("spec.headerInjection.headerName", &injection.header_name, findings);
            let secret = &injection.value_secret_ref;
            let path = "spec.headerInjection.valueSecretRef";
            findings.secret(path, "SecretNotFound", &secret.name, &secret.key);
        }
        ExternalAuth::TokenExchange(exchange) => exchange::check(exchange, findings),
        ExternalAuth::AwsSts(aws) => aws::check(aws, findings),
    }
}
