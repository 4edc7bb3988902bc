//! Which caller takes which role.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use skep_api::runconfig::AwsStsConfig;

use super::matcher::{Claims, Matcher};
use super::settings::{AwsConfigError, or_default};
use crate::identity::Identity;

/// ARN of an IAM role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleArn(Arc<str>);

impl RoleArn {
    /// `arn:PARTITION:iam::ACCOUNT:role/PATH`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(6, ':');
        let mut next = || parts.next().unwrap_or_default();
        let (arn, partition, service, region) = (next(), next(), next(), next());
        let (account, resource) = (next(), next());
        let name = resource.strip_prefix("role/")?;
        let good = arn == "arn"
            && (partition == "aws" || partition.starts_with("aws-"))
            && partition.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            && service == "iam"
            && region.is_empty()
            && account.len() == 12
            && account.bytes().all(|byte| byte.is_ascii_digit())
            && !name.is_empty()
            && text.len() <= 2048
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@/-".contains(&byte));
        good.then(|| Self(text.into()))
    }

    /// The ARN as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Rules from claims to roles, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq)]
pub struct RoleRules {
    claim: String,
    /// Whether any rule depends on the caller's groups.
    groups_matter: bool,
    mappings: Vec<Mapping>,
    fallback: Option<RoleArn>,
}

#[derive(Debug, Clone, PartialEq)]
struct Mapping {
    when: Condition,
    role: RoleArn,
}

#[derive(Debug, Clone, PartialEq)]
enum Condition {
    /// The role claim is, or lists, this value.
    Holds(String),
    /// The expression is true.
    Matches(Matcher),
}

impl RoleRules {
    /// Checks and compiles the rules.
    ///
    /// # Errors
    /// When there is no role, or a rule is wrong; the message says which.
    pub fn new(config: &AwsStsConfig) -> Result<Self, AwsConfigError> {
        let fallback = match config.fallback_role_arn.as_str() {
            "" => None,
            text => Some(role(text, "fallback_role_arn")?),
        };
        if fallback.is_none() && config.role_mappings.is_empty() {
            return Err(AwsConfigError::NoRoles);
        }
        let mut mappings = Vec::with_capacity(config.role_mappings.len());
        for (index, given) in config.role_mappings.iter().enumerate() {
            let when = match (given.claim.as_str(), given.matcher.as_str()) {
                (claim, "") if !claim.is_empty() => Condition::Holds(claim.to_owned()),
                ("", matcher) if !matcher.is_empty() => Condition::Matches(
                    Matcher::compile(matcher).map_err(|source| AwsConfigError::Matcher { index, source })?,
                ),
                _ => return Err(AwsConfigError::MappingKind { index }),
            };
            if let Some(found) = given.priority.filter(|priority| *priority < 0) {
                return Err(AwsConfigError::Priority { index, found });
            }
            let role = role(&given.role_arn, &format!("role_mappings[{index}].role_arn"))?;
            mappings.push((given.priority, Mapping { when, role }));
        }
        // Stable: of equal priorities the first one written is tried first.
        mappings.sort_by_key(|(priority, _)| (priority.is_none(), *priority));
        let mappings: Vec<Mapping> = mappings.into_iter().map(|(_, mapping)| mapping).collect();
        let claim = or_default(&config.role_claim, "groups");
        let groups_matter = mappings.iter().any(|mapping| match &mapping.when {
            Condition::Holds(_) => claim.split('.').next() == Some("groups"),
            Condition::Matches(matcher) => matcher.mentions("groups"),
        });
        Ok(Self { claim, groups_matter, mappings, fallback })
    }

    /// The caller's role. A matcher that fails counts as one that does not match. A caller whose groups are
    /// not known gets none where groups matter: the fallback is for those who are in none of them.
    pub fn select(&self, caller: &Identity) -> Option<&RoleArn> {
        if caller.groups_unknown && self.groups_matter {
            return None;
        }
        let held = claim(&caller.claims, &self.claim);
        let shown = Claims::new(&caller.claims);
        let matched = self.mappings.iter().find(|mapping| match &mapping.when {
            Condition::Holds(value) => held.is_some_and(|held| holds(held, value)),
            Condition::Matches(matcher) => matcher.matches(&shown),
        });
        matched.map(|mapping| &mapping.role).or(self.fallback.as_ref())
    }
}

/// A claim by its exact name, else by a dotted path.
pub(super) fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(found) = claims.get(name) {
        return Some(found);
    }
    let mut parts = name.split('.');
    let first = claims.get(parts.next()?)?;
    parts.try_fold(first, |found, part| found.get(part))
}

/// `^[a-zA-Z0-9_+=,.@-]{2,64}$`
pub(super) fn is_session_name(text: &str) -> bool {
    (2..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte))
}

fn holds(held: &Value, value: &str) -> bool {
    match held {
        Value::String(text) => text == value,
        Value::Array(items) => items.iter().any(|item| item.as_str() == Some(value)),
        _ => false,
    }
}

fn role(text: &str, key: &str) -> Result<RoleArn, AwsConfigError> {
    RoleArn::parse(text)
        .ok_or_else(|| AwsConfigError::RoleArn { key: key.to_owned(), found: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skep_api::runconfig::AwsRoleMapping;

    use super::*;

    fn arn(name: &str) -> String {
        format!("arn:aws:iam::123456789012:role/{name}")
    }

    fn claim_rule(value: &str, role: &str, priority: Option<i32>) -> AwsRoleMapping {
        AwsRoleMapping { claim: value.to_owned(), role_arn: arn(role), priority, ..AwsRoleMapping::default() }
    }

    fn matcher_rule(matcher: &str, role: &str, priority: Option<i32>) -> AwsRoleMapping {
        AwsRoleMapping {
            matcher: matcher.to_owned(),
            role_arn: arn(role),
            priority,
            ..AwsRoleMapping::default()
        }
    }

    fn rules(mappings: Vec<AwsRoleMapping>, fallback: &str, claim: &str) -> RoleRules {
        let fallback_role_arn = if fallback.is_empty() { String::new() } else { arn(fallback) };
        RoleRules::new(&AwsStsConfig {
            role_mappings: mappings,
            fallback_role_arn,
            role_claim: claim.to_owned(),
            ..AwsStsConfig::default()
        })
        .unwrap()
    }

    fn caller(claims: &Value) -> Identity {
        let mut caller = Identity::of("https://idp.example", "alice");
        caller.claims = claims.as_object().unwrap().clone();
        caller
    }

    fn selected(rules: &RoleRules, claims: &Value) -> Option<String> {
        rules.select(&caller(claims)).map(|role| role.as_str().rsplit('/').next().unwrap().to_owned())
    }

    #[test]
    fn the_lowest_number_wins_then_the_order_then_the_fallback() {
        let rules = rules(
            vec![
                claim_rule("users", "absent", None),
                claim_rule("users", "absent-later", None),
                claim_rule("admins", "ten", Some(10)),
                claim_rule("admins", "ten-later", Some(10)),
                claim_rule("root", "last-number", Some(i32::MAX)),
                matcher_rule("claims.sub == 'root'", "zero", Some(0)),
            ],
            "fallback",
            "",
        );
        for (claims, expected) in [
            (json!({"groups": ["users"]}), "absent"),
            (json!({"groups": "users"}), "absent"),
            (json!({"groups": ["users", "admins"]}), "ten"),
            (json!({"groups": ["users", "root"]}), "last-number"),
            (json!({"groups": ["users", "admins"], "sub": "root"}), "zero"),
            (json!({"groups": ["user"]}), "fallback"),
            (json!({"groups": "users admins"}), "fallback"),
            (json!({"groups": {"users": true}}), "fallback"),
            (json!({"groups": [["users"], 1, null]}), "fallback"),
            (json!({}), "fallback"),
        ] {
            assert_eq!(selected(&rules, &claims).as_deref(), Some(expected), "{claims}");
        }
    }

    #[test]
    fn the_role_claim_is_a_name_or_a_path() {
        let by_path = rules(vec![claim_rule("a", "path", None)], "", "realm_access.roles");
        assert_eq!(selected(&by_path, &json!({"realm_access": {"roles": ["a"]}})).as_deref(), Some("path"));
        assert_eq!(selected(&by_path, &json!({"realm_access.roles": ["a"]})).as_deref(), Some("path"));
        assert_eq!(selected(&by_path, &json!({"realm_access": ["a"]})), None);
        let url = rules(vec![claim_rule("a", "url", None)], "", "https://app.example/roles");
        assert_eq!(selected(&url, &json!({"https://app.example/roles": "a"})).as_deref(), Some("url"));
    }

    #[test]
    fn a_matcher_that_fails_is_passed_over() {
        let rules = rules(
            vec![
                matcher_rule("claims.missing == 1", "missing", Some(1)),
                matcher_rule("claims.sub", "no-bool", Some(2)),
                matcher_rule("claims.groups[7] == 'a'", "bounds", Some(3)),
                matcher_rule("'dev' in claims.groups", "dev", Some(4)),
            ],
            "fallback",
            "",
        );
        let claims = json!({"sub": "alice", "groups": ["dev"]});
        assert_eq!(selected(&rules, &claims).as_deref(), Some("dev"));
        assert_eq!(selected(&rules, &json!({"sub": "alice"})).as_deref(), Some("fallback"));
    }

    #[test]
    fn nobody_gets_a_role_that_is_not_for_them() {
        let rules = rules(vec![claim_rule("admins", "admin", None)], "", "");
        assert_eq!(selected(&rules, &json!({"groups": ["users"]})), None);
    }

    #[test]
    fn a_caller_whose_groups_are_not_known_is_not_one_without_groups() {
        let mut unknown = caller(&json!({"sub": "alice"}));
        unknown.groups_unknown = true;
        for (rules, expected) in [
            (rules(vec![claim_rule("restricted", "low", None)], "high", ""), false),
            (rules(vec![claim_rule("restricted", "low", None)], "high", "groups.names"), false),
            (rules(vec![matcher_rule("'x' in claims.groups", "low", None)], "high", "roles"), false),
            (rules(vec![matcher_rule("claims['groups'].size() > 1", "low", None)], "high", "roles"), false),
            (rules(vec![claim_rule("restricted", "low", None)], "high", "roles"), true),
            (rules(vec![], "high", ""), true),
        ] {
            assert_eq!(rules.select(&unknown).is_some(), expected, "{rules:?}");
        }
    }

    #[test]
    fn an_arn_names_a_role_of_iam() {
        for good in [
            "arn:aws:iam::123456789012:role/a",
            "arn:aws-cn:iam::123456789012:role/path/a_b+c=d,e.f@g-h",
            "arn:aws-us-gov:iam::123456789012:role/a",
        ] {
            assert!(RoleArn::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "role/a",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::123456789012:user/a",
            "arn:aws:iam::12345678901:role/a",
            "arn:aws:iam:eu-central-1:123456789012:role/a",
            "arn:aws:sts::123456789012:role/a",
            "arn:gcp:iam::123456789012:role/a",
            "arn:aws:iam::123456789012:role/a b",
            "arn:aws:iam::123456789012:role/a:b",
            "arn:aws:iam::123456789012:role/ä",
        ] {
            assert!(RoleArn::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_session_name_has_two_to_sixty_four_plain_characters() {
        for (name, good) in [
            ("alice@example.com", true),
            ("ab", true),
            ("a", false),
            ("", false),
            ("a b", false),
            ("a/b", false),
            ("auth0|abc", false),
            ("älice", false),
        ] {
            assert_eq!(is_session_name(name), good, "{name}");
        }
        assert!(is_session_name(&"a".repeat(64)) && !is_session_name(&"a".repeat(65)));
    }
}
