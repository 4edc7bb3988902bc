//! The wire format: `AdmissionReview` of `admission.k8s.io/v1`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use json_patch::Patch;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use skep_api::problem::Problem;
use thiserror::Error;

use super::lines::{bounded_message, bounded_warnings, one_line};

/// `apiVersion` of the only version that is understood.
pub const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// Causes that a denial lists beside its message.
const MAX_CAUSES: usize = 50;

/// What the API server asks about.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Identifies this review; it goes back in the answer.
    pub uid: String,
    #[serde(default)]
    pub operation: Operation,
    /// Empty at CREATE where the name is generated.
    #[serde(default, deserialize_with = "or_null")]
    pub name: String,
    /// Counts more than what the object says.
    #[serde(default, deserialize_with = "or_null")]
    pub namespace: String,
    /// `status` and the like.
    #[serde(default, deserialize_with = "or_null")]
    pub sub_resource: String,
    /// Who asks for the change.
    #[serde(default, rename = "userInfo", deserialize_with = "or_null")]
    pub user: User,
    /// The object as it would be stored; null at DELETE.
    #[serde(default)]
    pub object: Value,
    /// The object as it is stored; null at CREATE.
    #[serde(default)]
    pub old_object: Value,
    /// Nothing will be stored. It changes nothing about an answer.
    #[serde(default)]
    pub dry_run: Option<bool>,
}

/// What is done to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
    /// One that is not known here.
    #[default]
    #[serde(other)]
    Other,
}

impl Operation {
    /// For metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Other => "other",
        }
    }
}

/// A user as authentication found him (`authentication.k8s.io/v1` UserInfo).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    #[serde(deserialize_with = "or_null")]
    pub username: String,
    #[serde(deserialize_with = "or_null")]
    pub uid: String,
    #[serde(deserialize_with = "or_null")]
    pub groups: Vec<String>,
    #[serde(deserialize_with = "lists_or_null")]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Go writes an empty list as null.
fn or_null<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn lists_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Vec<String>>, D::Error> {
    let lists: BTreeMap<String, Option<Vec<String>>> = or_null(from)?;
    Ok(lists.into_iter().map(|(key, list)| (key, list.unwrap_or_default())).collect())
}

/// Why a body is no review that can be answered.
#[derive(Debug, Error)]
pub enum ReviewError {
    #[error("the body is no {KIND} in JSON")]
    NotJson {
        /// What the parser says.
        source: serde_json::Error,
    },
    #[error("the body is no {KIND}: it has neither `apiVersion` nor `kind`")]
    Nothing,
    #[error(
        "the body is a `{kind}` of `{api_version}`; this webhook answers an {KIND} of {API_VERSION}: set admissionReviewVersions to v1"
    )]
    NotAReview { api_version: String, kind: String },
    #[error("the {KIND} has no `request`")]
    NoRequest,
    #[error("`request.uid` is empty, so nobody could tell what an answer belongs to")]
    NoUid,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    request: Option<Value>,
}

impl Request {
    /// Reads a review.
    ///
    /// # Errors
    /// When it is none, or of another version.
    pub fn parse(body: &[u8]) -> Result<Self, ReviewError> {
        let not_json = |source| ReviewError::NotJson { source };
        let envelope: Envelope = serde_json::from_slice(body).map_err(not_json)?;
        if envelope.api_version.is_empty() && envelope.kind.is_empty() {
            return Err(ReviewError::Nothing);
        }
        if envelope.api_version != API_VERSION || envelope.kind != KIND {
            let (api_version, kind) = (one_line(&envelope.api_version, 100), one_line(&envelope.kind, 100));
            return Err(ReviewError::NotAReview { api_version, kind });
        }
        let request = envelope.request.filter(|request| !request.is_null()).ok_or(ReviewError::NoRequest)?;
        let request: Self = serde_json::from_value(request).map_err(not_json)?;
        if request.uid.is_empty() {
            return Err(ReviewError::NoUid);
        }
        Ok(request)
    }
}

/// What a review comes to.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub verdict: Verdict,
    /// One line each, for the user; bounded when they are written.
    pub warnings: Vec<String>,
    /// Go into the API server's audit log, under the name of the webhook.
    pub audit: BTreeMap<&'static str, String>,
}

/// Whether the change goes through.
#[derive(Debug, Clone, Default)]
pub enum Verdict {
    /// As it is.
    #[default]
    Allowed,
    /// With these changes. An empty patch is [`Allowed`](Self::Allowed).
    Patched(Patch),
    /// It does not: all that is wrong with it.
    Denied(Vec<Problem>),
    /// It does not, since it could not be judged: an HTTP status and a sentence.
    Failed { code: u16, message: String },
}

impl Answer {
    /// As it is, with nothing to say.
    pub fn allowed() -> Self {
        Self::default()
    }

    /// Could not be judged.
    pub fn failed(code: u16, message: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failed { code, message: message.into() }, ..Self::default() }
    }

    /// For metrics.
    pub fn outcome(&self) -> &'static str {
        match &self.verdict {
            Verdict::Allowed => "allowed",
            Verdict::Patched(patch) if patch.is_empty() => "allowed",
            Verdict::Patched(_) => "patched",
            Verdict::Denied(_) => "denied",
            Verdict::Failed { .. } => "failed",
        }
    }

    /// The body that answers the review with this uid.
    pub fn to_body(&self, uid: &str) -> Vec<u8> {
        let allowed = matches!(self.verdict, Verdict::Allowed | Verdict::Patched(_));
        let mut response = json!({"uid": uid, "allowed": allowed});
        let mut put = |field: &str, value: Value| {
            if let Some(map) = response.as_object_mut() {
                map.insert(field.to_owned(), value);
            }
        };
        match &self.verdict {
            Verdict::Allowed => {}
            Verdict::Patched(patch) if patch.is_empty() => {}
            Verdict::Patched(patch) => {
                put("patchType", "JSONPatch".into());
                put("patch", STANDARD.encode(serde_json::to_vec(patch).unwrap_or_default()).into());
            }
            Verdict::Denied(problems) => put("status", denial(problems)),
            Verdict::Failed { code, message } => put("status", status(*code, reason(*code), message)),
        }
        let warnings = bounded_warnings(&self.warnings);
        if !warnings.is_empty() {
            put("warnings", warnings.into());
        }
        if !self.audit.is_empty() {
            put("auditAnnotations", json!(self.audit));
        }
        let review = json!({"apiVersion": API_VERSION, "kind": KIND, "response": response});
        serde_json::to_vec(&review).unwrap_or_default()
    }
}

/// A `Status` of `v1` that says what failed: also the body of an HTTP error.
pub fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    })
}

/// The reason that Kubernetes has for an HTTP status.
pub fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        408 => "Timeout",
        413 => "RequestEntityTooLarge",
        415 => "UnsupportedMediaType",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    }
}

/// All problems in one message, as kubectl shows it, and one by one for programs.
fn denial(problems: &[Problem]) -> Value {
    let lines = problems.iter().map(|problem| format!("{}: {}", problem.path, problem.message));
    let mut status = status(403, reason(403), &bounded_message(lines));
    let causes: Vec<Value> = problems
        .iter()
        .take(MAX_CAUSES)
        .map(|problem| {
            let message = one_line(&problem.message, 1024);
            json!({"field": one_line(&problem.path, 256), "reason": problem.reason, "message": message})
        })
        .collect();
    if let Some(map) = status.as_object_mut() {
        map.insert("details".to_owned(), json!({"causes": causes}));
    }
    status
}
