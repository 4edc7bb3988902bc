//! AWS credentials by web identity: `awsSts`.

use skep_api::address::is_loopback;
use skep_api::crd::external_auth::{AwsRoleMapping as Written, AwsSts};
use skep_api::crd::parse::INVALID_FIELD;
use skep_api::runconfig::{AwsExtension, AwsRoleMapping, AwsStsConfig};
use skep_auth::aws::{AwsConfigError, RoleArn, RoleRules};
use url::Url;

use super::super::FileSource;
use super::super::findings::Findings;
use super::super::{ca_bundle, remote_url};
use super::NOT_SUPPORTED;

const AT: &str = "spec.awsSts";

/// Judges the block.
pub(super) fn check(aws: &AwsSts, findings: &mut Findings<'_>) {
    let mut wrong = |field: &str, message: String| {
        findings.error(format!("{AT}{field}"), INVALID_FIELD, message);
    };
    let mappings = aws.role_mappings.as_deref().unwrap_or_default();
    if !is_region(&aws.region) {
        wrong(".region", format!("`{}` is not a region such as `eu-west-1`.", aws.region.escape_debug()));
    }
    if aws.fallback_role_arn.is_none() && mappings.is_empty() {
        wrong(
            "",
            "Either `fallbackRoleArn` or `roleMappings` is needed, or there is no role to take.".to_owned(),
        );
    }
    let role = |arn: &str| {
        format!(
            "`{}` is not the ARN of an IAM role, such as `arn:aws:iam::123456789012:role/NAME`.",
            arn.escape_debug()
        )
    };
    if let Some(arn) = aws.fallback_role_arn.as_deref().filter(|arn| RoleArn::parse(arn).is_none()) {
        wrong(".fallbackRoleArn", role(arn));
    }
    for (index, written) in mappings.iter().enumerate() {
        let at = format!(".roleMappings[{index}]");
        let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.trim().is_empty());
        if given(&written.claim) == given(&written.matcher) {
            wrong(&at, "Give exactly one of `claim` and `matcher`.".to_owned());
        }
        if RoleArn::parse(&written.role_arn).is_none() {
            wrong(&format!("{at}.roleArn"), role(&written.role_arn));
        }
        if written.priority.is_some_and(|priority| priority < 0) {
            wrong(&format!("{at}.priority"), "A priority is not negative.".to_owned());
        }
        if let Some(fault) = matcher_fault(&mapping(written)) {
            wrong(&format!("{at}.matcher"), format!("The expression can't be used: {fault}."));
        }
    }
    if aws.session_duration.is_some_and(|seconds| !(900..=43200).contains(&seconds)) {
        wrong(".sessionDuration", "A session lasts from 900 to 43200 seconds.".to_owned());
    }
    if let Some(service) = &aws.service
        && !service.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    {
        wrong(".service", format!("`{}` is not a service name such as `aws-mcp`.", service.escape_debug()));
    }
    if let Some(text) = &aws.sts_endpoint {
        let near = |url: &Url| findings.world.is_local() && is_loopback(url);
        let sound = Url::parse(text).is_ok_and(|url| {
            (url.scheme() == "https" || (url.scheme() == "http" && near(&url)))
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        });
        let refused =
            Url::parse(text).ok().and_then(|url| remote_url::never_called(&url, findings.world.is_local()));
        if let Some(why) = refused {
            findings.error(format!("{AT}.stsEndpoint"), INVALID_FIELD, why);
        } else if !sound {
            findings.error(
                format!("{AT}.stsEndpoint"),
                INVALID_FIELD,
                "The endpoint is not an https URL without query and fragment; callers' tokens are sent to it.",
            );
        }
    }
    if aws.subject_provider_name.is_some() {
        findings.error(
            format!("{AT}.subjectProviderName"),
            NOT_SUPPORTED,
            "This version has no embedded authorization server, so there is no upstream provider to choose. The caller's own token is presented. Remove it.",
        );
    }
    ca_bundle::plan(aws.ca_bundle_ref.as_ref(), &format!("{AT}.caBundleRef"), findings);
}

/// `eu-west-1`, `us-gov-east-1` and the like.
fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let letters = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase());
    match parts.as_slice() {
        [country, middle @ .., number] => {
            country.len() == 2
                && letters(country)
                && !middle.is_empty()
                && middle.iter().all(letters)
                && !number.is_empty()
                && number.chars().all(|c| c.is_ascii_digit())
        }
        _ => false,
    }
}

/// Why the expression of a mapping can't be used, judged by the code that runs it.
fn matcher_fault(mapping: &AwsRoleMapping) -> Option<String> {
    let alone = AwsStsConfig { role_mappings: vec![mapping.clone()], ..AwsStsConfig::default() };
    match RoleRules::new(&alone) {
        Err(AwsConfigError::Matcher { source, .. }) => Some(source.to_string()),
        _ => None,
    }
}

fn mapping(written: &Written) -> AwsRoleMapping {
    AwsRoleMapping {
        claim: written.claim.clone().unwrap_or_default(),
        matcher: written.matcher.clone().unwrap_or_default(),
        role_arn: written.role_arn.clone(),
        priority: written.priority,
    }
}

/// The block as `aws_sts_config`, what ToolHive has no key for, and files.
pub(super) fn plan(
    aws: &AwsSts,
    path: &str,
    findings: &mut Findings<'_>,
) -> (AwsStsConfig, AwsExtension, Vec<FileSource>) {
    let role_mappings = aws.role_mappings.iter().flatten().map(mapping).collect();
    let config = AwsStsConfig {
        region: aws.region.clone(),
        service: aws.service.clone().unwrap_or_else(|| "aws-mcp".to_owned()),
        fallback_role_arn: aws.fallback_role_arn.clone().unwrap_or_default(),
        role_mappings,
        role_claim: aws.role_claim.clone().unwrap_or_else(|| "groups".to_owned()),
        session_duration: Some(aws.session_duration.unwrap_or(3600)),
        session_name_claim: aws.session_name_claim.clone().unwrap_or_else(|| "sub".to_owned()),
        subject_provider_name: aws.subject_provider_name.clone().unwrap_or_default(),
    };
    let bundle = ca_bundle::plan(aws.ca_bundle_ref.as_ref(), path, findings).map(|bundle| bundle.file);
    let extension = AwsExtension {
        sts_endpoint: aws.sts_endpoint.clone().unwrap_or_default(),
        ca_cert_path: bundle.as_ref().map(|file| file.path.clone()).unwrap_or_default(),
    };
    (config, extension, bundle.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_those_of_aws() {
        for (text, expected) in [
            ("eu-west-1", true),
            ("us-gov-east-1", true),
            ("eu-west", false),
            ("EU-west-1", false),
            ("eu-1", false),
            ("evil.example.com/", false),
            ("", false),
        ] {
            assert_eq!(is_region(text), expected, "{text}");
        }
    }
}
