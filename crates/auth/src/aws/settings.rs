//! The configuration of `awsSts`, checked.

use std::time::Duration;

use skep_api::address::{Egress, Reach, is_loopback};
use skep_api::runconfig::{AwsExtension, AwsStsConfig};
use url::Url;
use url::form_urlencoded::Serializer;

use super::matcher::MatcherError;
use super::roles::{RoleArn, RoleRules};

/// Service name in signatures where none is given.
const DEFAULT_SERVICE: &str = "aws-mcp";

/// Seconds that credentials last where nothing is said, and the bounds that STS sets.
const DEFAULT_DURATION: i32 = 3600;
const DURATIONS: std::ops::RangeInclusive<i32> = 900..=43_200;

/// For one call to STS.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How callers get AWS credentials and what is signed with them.
#[derive(Debug, Clone, PartialEq)]
pub struct AwsSettings {
    /// Region of the MCP server and of STS.
    pub region: String,
    /// Service name in signatures.
    pub service: String,
    /// Which caller takes which role.
    pub roles: RoleRules,
    /// How long credentials last.
    pub session_duration: Duration,
    /// Claim that names the session: a name or a dotted path.
    pub session_name_claim: String,
    /// Where STS is.
    pub sts_endpoint: Url,
    /// Further CA certificates for STS, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// What calls to STS may reach.
    pub reach: Reach,
    /// What the process may reach.
    pub egress: Egress,
    /// For one call to STS.
    pub timeout: Duration,
}

/// What is wrong with a configuration; each message begins with the key.
#[derive(Debug, thiserror::Error)]
pub enum AwsConfigError {
    #[error("aws_sts_config.region: {found:?} is not a region; write one such as us-east-1")]
    Region { found: String },
    #[error("aws_sts_config.service: {found:?} is not a service name; write one such as aws-mcp")]
    Service { found: String },
    #[error(
        "aws_sts_config.subject_provider_name is not supported by this version: it needs the embedded \
         authorization server; remove it, and the caller's own token is used"
    )]
    SubjectProvider,
    #[error("aws_sts_config: there is no role; set fallback_role_arn or role_mappings")]
    NoRoles,
    #[error("aws_sts_config.{key}: {found:?} is not the ARN of an IAM role")]
    RoleArn { key: String, found: String },
    #[error("aws_sts_config.role_mappings[{index}]: it needs either claim or matcher, and not both")]
    MappingKind { index: usize },
    #[error("aws_sts_config.role_mappings[{index}].priority: {found} is less than 0")]
    Priority { index: usize, found: i32 },
    #[error("aws_sts_config.role_mappings[{index}].matcher")]
    Matcher {
        index: usize,
        #[source]
        source: MatcherError,
    },
    #[error("aws_sts_config.session_duration: {found} is not within 900 and 43200 seconds")]
    Duration { found: i32 },
    #[error("skep.aws.sts_endpoint: {found:?} {reason}")]
    Endpoint { found: String, reason: &'static str },
}

impl AwsSettings {
    /// Checks a configuration. `ca_pem` is the content of `ca_cert_path`. STS may lie at a private address:
    /// an interface endpoint answers to the region's own name. Only a double on this machine is called
    /// without TLS.
    ///
    /// # Errors
    /// The first thing in it that is wrong or that this version can't do.
    pub fn new(
        config: &AwsStsConfig,
        extension: &AwsExtension,
        ca_pem: Option<Vec<u8>>,
        egress: Egress,
    ) -> Result<Self, AwsConfigError> {
        if !is_region(&config.region) {
            return Err(AwsConfigError::Region { found: config.region.clone() });
        }
        let service = or_default(&config.service, DEFAULT_SERVICE);
        if !service.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            return Err(AwsConfigError::Service { found: service });
        }
        if !config.subject_provider_name.is_empty() {
            return Err(AwsConfigError::SubjectProvider);
        }
        let seconds = config.session_duration.unwrap_or(DEFAULT_DURATION);
        let Some(session_duration) = u64::try_from(seconds).ok().filter(|_| DURATIONS.contains(&seconds))
        else {
            return Err(AwsConfigError::Duration { found: seconds });
        };
        let sts_endpoint = endpoint(&config.region, &extension.sts_endpoint, &egress)?;
        Ok(Self {
            roles: RoleRules::new(config)?,
            session_duration: Duration::from_secs(session_duration),
            session_name_claim: or_default(&config.session_name_claim, "sub"),
            reach: Reach { http: sts_endpoint.scheme() == "http", private: true },
            sts_endpoint,
            region: config.region.clone(),
            service,
            ca_pem,
            egress,
            timeout: TIMEOUT,
        })
    }

    /// The form of an AssumeRoleWithWebIdentity call.
    pub(super) fn form(&self, role: &RoleArn, session: &str, token: &str) -> Vec<u8> {
        Serializer::new(String::new())
            .append_pair("Action", "AssumeRoleWithWebIdentity")
            .append_pair("Version", "2011-06-15")
            .append_pair("RoleArn", role.as_str())
            .append_pair("RoleSessionName", session)
            .append_pair("DurationSeconds", &self.session_duration.as_secs().to_string())
            .append_pair("WebIdentityToken", token)
            .finish()
            .into_bytes()
    }
}

pub(super) fn or_default(given: &str, default: &str) -> String {
    if given.is_empty() { default.to_owned() } else { given.to_owned() }
}

/// `^[a-z]{2}(-[a-z]+)+-\d+$`
fn is_region(text: &str) -> bool {
    let mut parts: Vec<&str> = text.split('-').collect();
    let number = parts.pop().unwrap_or_default();
    let letters = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    parts.len() >= 2
        && parts.first().is_some_and(|continent| continent.len() == 2)
        && parts.into_iter().all(letters)
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// The region's own STS, or the one that is named: an interface endpoint of a private network.
fn endpoint(region: &str, given: &str, egress: &Egress) -> Result<Url, AwsConfigError> {
    let regional;
    let text = if given.is_empty() {
        let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        regional = format!("https://sts.{region}.{suffix}/");
        regional.as_str()
    } else {
        given
    };
    let wrong = |reason| AwsConfigError::Endpoint { found: text.to_owned(), reason };
    let url = Url::parse(text).map_err(|_| wrong("is not a URL"))?;
    match url.scheme() {
        "https" => {}
        // The credentials of the role are in the answer.
        "http" if egress.loopback && is_loopback(&url) => {}
        _ => return Err(wrong("must be https; http is for a loopback address in a local run")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        // The message must not repeat them.
        let found = crate::client::redacted(&url);
        return Err(AwsConfigError::Endpoint { found, reason: "must not have a user name or password" });
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("must not have a query or a fragment"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use skep_api::runconfig::AwsRoleMapping;

    use super::*;

    fn minimal() -> AwsStsConfig {
        AwsStsConfig {
            region: "eu-central-1".to_owned(),
            fallback_role_arn: "arn:aws:iam::123456789012:role/mcp".to_owned(),
            ..AwsStsConfig::default()
        }
    }

    fn settings(config: &AwsStsConfig, endpoint: &str) -> Result<AwsSettings, AwsConfigError> {
        let extension = AwsExtension { sts_endpoint: endpoint.to_owned(), ca_cert_path: String::new() };
        AwsSettings::new(config, &extension, None, Egress::default())
    }

    fn changed(change: impl FnOnce(&mut AwsStsConfig)) -> Result<AwsSettings, AwsConfigError> {
        let mut config = minimal();
        change(&mut config);
        settings(&config, "")
    }

    #[test]
    fn what_is_not_said_has_the_usual_value() {
        let settings = settings(&minimal(), "").unwrap();
        assert_eq!(settings.service, "aws-mcp");
        assert_eq!(settings.session_duration, Duration::from_secs(3600));
        assert_eq!(settings.session_name_claim, "sub");
        assert_eq!(settings.sts_endpoint.as_str(), "https://sts.eu-central-1.amazonaws.com/");
        assert_eq!(settings.reach, Reach { http: false, private: true }, "a private DNS name is no fault");
        let china = changed(|config| config.region = "cn-north-1".to_owned()).unwrap();
        assert_eq!(china.sts_endpoint.as_str(), "https://sts.cn-north-1.amazonaws.com.cn/");
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key() {
        let mapping = |claim: &str, matcher: &str, arn: &str, priority| {
            vec![AwsRoleMapping {
                claim: claim.to_owned(),
                matcher: matcher.to_owned(),
                role_arn: arn.to_owned(),
                priority,
            }]
        };
        let arn = "arn:aws:iam::123456789012:role/a";
        type Change = Box<dyn FnOnce(&mut AwsStsConfig)>;
        let table: Vec<(Change, &str)> = vec![
            (Box::new(|config| config.region.clear()), "aws_sts_config.region"),
            (
                Box::new(|config| config.region = "eu-central-1.evil.example/".to_owned()),
                "aws_sts_config.region",
            ),
            (Box::new(|config| config.region = "europe-1".to_owned()), "aws_sts_config.region"),
            (Box::new(|config| config.service = "a/b".to_owned()), "aws_sts_config.service"),
            (
                Box::new(|config| config.subject_provider_name = "okta".to_owned()),
                "aws_sts_config.subject_provider_name",
            ),
            (Box::new(|config| config.fallback_role_arn.clear()), "there is no role"),
            (
                Box::new(|config| config.fallback_role_arn = "mcp".to_owned()),
                "aws_sts_config.fallback_role_arn",
            ),
            (Box::new(|config| config.session_duration = Some(899)), "aws_sts_config.session_duration"),
            (Box::new(|config| config.session_duration = Some(43_201)), "aws_sts_config.session_duration"),
            (Box::new(|config| config.session_duration = Some(-1)), "aws_sts_config.session_duration"),
            (
                Box::new(move |config| config.role_mappings = mapping("a", "true", arn, None)),
                "role_mappings[0]: it needs either",
            ),
            (
                Box::new(move |config| config.role_mappings = mapping("", "", arn, None)),
                "role_mappings[0]: it needs either",
            ),
            (
                Box::new(move |config| config.role_mappings = mapping("a", "", "x", None)),
                "role_mappings[0].role_arn",
            ),
            (
                Box::new(move |config| config.role_mappings = mapping("a", "", arn, Some(-1))),
                "role_mappings[0].priority",
            ),
            (
                Box::new(move |config| config.role_mappings = mapping("", "claims.", arn, None)),
                "role_mappings[0].matcher",
            ),
        ];
        for (change, expected) in table {
            let error = changed(change).expect_err(expected).to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn an_endpoint_is_a_plain_https_url() {
        for (endpoint, expected) in [
            ("http://sts.example/", "must be https"),
            ("sts.example", "is not a URL"),
            ("https://sts.example/?a", "query"),
            ("ftp://sts.example/", "must be https"),
        ] {
            let error = settings(&minimal(), endpoint).unwrap_err().to_string();
            assert!(error.contains(endpoint) && error.contains(expected), "{error}");
        }
        let local = |endpoint: &str| {
            let extension = AwsExtension { sts_endpoint: endpoint.to_owned(), ca_cert_path: String::new() };
            AwsSettings::new(&minimal(), &extension, None, Egress { loopback: true, deny: Vec::new() })
        };
        for (endpoint, good) in [
            ("http://127.0.0.1:4566/", true),
            ("HTTP://LocalHost/", true),
            ("http://[::1]:4566/", true),
            ("http://sts.localhost/", true),
            ("http://10.0.0.1/", false),
            ("http://sts.internal.example/", false),
            ("http://localhost.evil.example/", false),
            ("http://169.254.169.254/", false),
        ] {
            assert_eq!(local(endpoint).is_ok(), good, "{endpoint}");
            assert!(settings(&minimal(), endpoint).is_err(), "{endpoint} in a pod");
        }
        let error = settings(&minimal(), "https://me:hunter2@sts.example/").unwrap_err().to_string();
        assert!(error.contains("password") && !error.contains("hunter2"), "{error}");
        assert!(settings(&minimal(), "https://vpce-1.sts.eu-central-1.vpce.amazonaws.com").is_ok());
    }
}
