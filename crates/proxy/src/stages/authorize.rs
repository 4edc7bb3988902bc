//! May this caller do this? Nothing that comes later, no credential and no backend, sees a request
//! that was refused here.

use std::sync::{Arc, LazyLock};

use serde_json::Value;
use skep_auth::identity::Identity;

use crate::annotations::{AnnotationCache, overlay};
use crate::cedar::{Action, Policies, Verdict};
use crate::error::Rejection;
use crate::message::{Call, Form};
use crate::request::{Authorized, Caller, Parsed};
use crate::tools::ToolRules;

/// Policies and what they may ask about.
#[derive(Debug)]
pub struct Authorization {
    /// The policies.
    pub policies: Arc<Policies>,
    /// What tools say of themselves.
    pub annotations: Arc<AnnotationCache>,
}

/// Decides a request. Without policies everything is allowed; with them, what nobody here knows is not.
///
/// # Errors
/// 403 with JSON-RPC code 403, and with the scopes that are missing where these alone are. Which policy
/// decided is in the verdict, for the audit record and the log, and not in the answer.
pub fn authorize(
    request: Parsed,
    authorization: Option<&Authorization>,
    tools: &ToolRules,
    verdict: &mut Option<Verdict>,
) -> Result<Authorized, Rejection> {
    let Some(authorization) = authorization else { return Ok(Authorized::new(request)) };
    let Some(message) = request.message() else { return Ok(Authorized::new(request)) };
    let who = principal(request.head().caller());
    let mut missing = None;
    let mut decide = |action: Action<'_>| {
        let verdict = authorization.policies.decide(&who, action);
        if !verdict.allowed {
            missing = authorization.policies.missing_scope(&who, action);
        }
        verdict
    };
    let decided = match &message.call {
        Call::Tool { name, arguments, .. } => {
            let own = authorization.annotations.of(name);
            let given = tools.annotations(name);
            let annotations = match (own, given) {
                (None, None) => None,
                (own, given) => Some(overlay(&own.unwrap_or_default(), given)),
            };
            decide(Action::CallTool { name, arguments, annotations: annotations.as_ref() })
        }
        Call::Prompt { name, arguments } => decide(Action::GetPrompt { name, arguments }),
        Call::Resource { uri } => decide(Action::ReadResource { uri }),
        Call::Listen { uris } => {
            let refused =
                uris.iter().map(|uri| decide(Action::ReadResource { uri })).find(|one| !one.allowed);
            refused.unwrap_or_else(open)
        }
        // A list is shown to everybody, each with what he may use: the answer is filtered.
        Call::List(_) | Call::Initialize { .. } | Call::Open => open(),
        // An answer to a question of the server, which only somebody with its id can give.
        Call::Answer if message.form == Form::Response => open(),
        Call::Answer | Call::Unknown => Verdict {
            allowed: false,
            policies: Vec::new(),
            errors: vec!["the method is not known".to_owned()],
        },
    };
    let allowed = decided.allowed;
    if !allowed {
        tracing::info!(
            mcp.method = %message.method.chars().take(64).collect::<String>(),
            policies = ?decided.policies,
            errors = ?decided.errors,
            "a call was denied"
        );
    }
    *verdict = Some(decided);
    match missing {
        _ if allowed => Ok(Authorized::new(request)),
        Some(required) => {
            Err(Rejection::ScopeMissing { required: required.into(), challenge: None, id: request.id() })
        }
        None => Err(Rejection::Denied { id: request.id() }),
    }
}

/// Who policies decide about.
pub(crate) fn principal(caller: &Caller) -> Arc<Identity> {
    match caller {
        Caller::Known(identity) => Arc::clone(identity),
        Caller::Anonymous => Arc::clone(&NOBODY),
    }
}

/// Everybody whom nobody asked.
static NOBODY: LazyLock<Arc<Identity>> = LazyLock::new(|| {
    let mut claims = serde_json::Map::new();
    claims.insert("sub".to_owned(), Value::String("anonymous".to_owned()));
    Arc::new(Identity { claims, ..Identity::of("", "anonymous") })
});

fn open() -> Verdict {
    Verdict { allowed: true, policies: Vec::new(), errors: Vec::new() }
}
