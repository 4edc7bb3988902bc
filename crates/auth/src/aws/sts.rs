//! The call to STS and what it answers. Messages of its errors are never repeated: some quote the token.

use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER as RETRY_AFTER_HEADER};
use jiff::Timestamp;
use roxmltree::{Document, Node, ParsingOptions};
use skep_api::secret::Secret;
use skep_runtime::logging::chain;
use url::Url;
use zeroize::Zeroizing;

use super::{AwsError, RETRY_AFTER};
use crate::client::{FetchError, GuardedClient};

/// Namespace of every answer.
const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// Elements of an answer. A good one has about fifteen.
const MAX_NODES: u32 = 512;

/// Longest wait that STS may impose.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Codes that mean: the configuration is at fault.
const REFUSALS: [&str; 16] = [
    "ExpiredTrustAnchorException",
    "IncompleteSignature",
    "InvalidAction",
    "InvalidClientTokenId",
    "InvalidParameterCombination",
    "InvalidParameterValue",
    "InvalidQueryParameter",
    "MalformedPolicyDocument",
    "MalformedQueryString",
    "MissingAction",
    "MissingParameter",
    "NoSuchEntity",
    "OptInRequired",
    "PackedPolicyTooLarge",
    "RegionDisabledException",
    "ValidationError",
];

/// What STS gave.
pub(super) struct Granted {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: Secret,
    pub(super) session_token: Secret,
    /// Seconds since 1970.
    pub(super) expires_at: i64,
}

/// Why there are none, and what else is known of it, for the log.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: AwsError,
    pub(super) status: Option<u16>,
    pub(super) cause: String,
}

/// Sends the form of an AssumeRoleWithWebIdentity call.
pub(super) async fn assume_role(
    client: &GuardedClient,
    endpoint: &Url,
    form: Vec<u8>,
    now: i64,
) -> Result<Granted, Fault> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    headers.insert(ACCEPT, HeaderValue::from_static("text/xml"));
    let reply = client.post(endpoint, headers, form).await.map_err(|error| {
        let cause = chain(&error);
        let error = match error {
            FetchError::Unreachable { .. } => AwsError::Unavailable { retry_after: RETRY_AFTER },
            FetchError::TooLarge { .. } => AwsError::Response { reason: "it is too large" },
            _ => AwsError::Refused { code: "EndpointRefused" },
        };
        Fault { error, status: None, cause }
    })?;
    let body = Zeroizing::new(reply.body);
    let answer = match reply.status {
        200 => granted(&body, now),
        status => Err(refused(status, &reply.headers, &body)),
    };
    answer.map_err(|error| Fault { error, status: Some(reply.status), cause: String::new() })
}

fn granted(body: &[u8], now: i64) -> Result<Granted, AwsError> {
    let unusable = |reason| AwsError::Response { reason };
    let text = std::str::from_utf8(body).map_err(|_| unusable("it is not UTF-8"))?;
    let document = parse(text).ok_or(unusable("it is not XML"))?;
    let credentials = path(
        document.root(),
        &["AssumeRoleWithWebIdentityResponse", "AssumeRoleWithWebIdentityResult", "Credentials"],
    )
    .ok_or(unusable("it has no credentials"))?;
    let member =
        |name| only(credentials, name).and_then(content).ok_or(unusable("its credentials have a gap"));
    let expires_at = member("Expiration")?
        .parse::<Timestamp>()
        .map_err(|_| unusable("the end of its credentials is not a time"))?
        .as_second();
    if expires_at <= now {
        return Err(unusable("its credentials have ended already"));
    }
    Ok(Granted {
        access_key_id: member("AccessKeyId")?.to_owned(),
        secret_access_key: Secret::new(member("SecretAccessKey")?),
        session_token: Secret::new(member("SessionToken")?),
        expires_at,
    })
}

fn refused(status: u16, headers: &HeaderMap, body: &[u8]) -> AwsError {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let document = parse(text);
    let code = document
        .as_ref()
        .and_then(|document| path(document.root(), &["ErrorResponse", "Error", "Code"]))
        .and_then(content)
        .unwrap_or_default();
    let unavailable = || AwsError::Unavailable { retry_after: retry_after(headers) };
    match code {
        "InvalidIdentityToken" | "ExpiredTokenException" | "IDPRejectedClaim" => {
            AwsError::TokenRefused { repeated: false }
        }
        "AccessDenied" | "AccessDeniedException" => AwsError::Denied,
        "IDPCommunicationError"
        | "InternalFailure"
        | "RequestLimitExceeded"
        | "RequestTimeout"
        | "ServiceUnavailable"
        | "Throttling"
        | "ThrottlingException" => unavailable(),
        _ => match (status, REFUSALS.iter().find(|known| **known == code)) {
            (500.. | 408 | 429, _) => unavailable(),
            (_, Some(code)) => AwsError::Refused { code },
            (300..400, None) => AwsError::Response { reason: "it sends elsewhere, which is never followed" },
            (_, None) if code.is_empty() => AwsError::Response { reason: "it is an error without a code" },
            (_, None) => AwsError::Refused { code: "UnknownCode" },
        },
    }
}

/// Whole seconds, within bounds; the other form, a date, is not used by STS.
fn retry_after(headers: &HeaderMap) -> Duration {
    headers
        .get(RETRY_AFTER_HEADER)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.trim().parse().ok())
        .map_or(RETRY_AFTER, |seconds| Duration::from_secs(seconds).min(LONGEST_WAIT))
}

fn parse(text: &str) -> Option<Document<'_>> {
    let options = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).ok()
}

fn path<'a, 'input>(root: Node<'a, 'input>, names: &[&str]) -> Option<Node<'a, 'input>> {
    names.iter().try_fold(root, |node, name| only(node, name))
}

/// The child of this name, if there is exactly one. Doubles of STS leave the namespace out.
fn only<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    let mut found = node.children().filter(|child| {
        child.tag_name().name() == name
            && child.tag_name().namespace().is_none_or(|namespace| namespace == NAMESPACE)
    });
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// The text of an element that has nothing but text.
fn content<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    let mut children = node.children();
    let text = children.next()?.text()?.trim();
    (children.next().is_none() && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()))
        .then_some(text)
}
