//! Where in the claims the caller's particulars are.

use serde_json::{Map, Value};
use skep_api::runconfig::ClaimMappings;

/// A claim by its exact name, also one that has dots in it or is a URL; else by a dotted path, whose
/// parts may have dots in them too.
pub(crate) fn lookup<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(found) = claims.get(path) {
        return Some(found);
    }
    path.rmatch_indices('.').find_map(|(dot, _)| {
        let (name, rest) = (path.get(..dot)?, path.get(dot + 1..)?);
        lookup(claims.get(name)?.as_object()?, rest)
    })
}

/// Puts what is mapped under the plain name. What was there goes, also when the mapped place is empty:
/// the plain claim was not what the configuration trusts.
pub(crate) fn materialise(mappings: &ClaimMappings, claims: &mut Map<String, Value>) {
    let mapped: Vec<(&str, Option<Value>)> = [
        ("email", &mappings.email),
        ("name", &mappings.name),
        ("groups", &mappings.groups),
        ("roles", &mappings.roles),
    ]
    .into_iter()
    .filter(|(_, path)| !path.is_empty())
    .map(|(name, path)| (name, lookup(claims, path).cloned()))
    .collect();
    for (name, value) in mapped {
        match value {
            Some(value) if !is_empty(&value) => {
                claims.insert(name.to_owned(), value);
            }
            _ => {
                claims.remove(name);
            }
        }
    }
}

/// The subject: `sub`, or what is mapped to it, which may be a whole number.
pub(crate) fn subject(mappings: &ClaimMappings, claims: &Map<String, Value>) -> Option<String> {
    let found = match mappings.subject.as_str() {
        "" => claims.get("sub")?.as_str()?.to_owned(),
        path => match lookup(claims, path)? {
            Value::String(text) => text.clone(),
            Value::Number(number) if !number.is_f64() => number.to_string(),
            _ => return None,
        },
    };
    (!found.is_empty()).then_some(found)
}

/// True when the token says that its groups are elsewhere, or only that there are some: a distributed
/// claim (OpenID Connect Core §5.6.2), as Microsoft Entra writes it for users with many groups, or its
/// `hasgroups`.
pub(crate) fn groups_unknown(mappings: &ClaimMappings, claims: &Map<String, Value>) -> bool {
    let source = if mappings.groups.is_empty() { "groups" } else { &mappings.groups };
    let elsewhere = claims.get("_claim_names").and_then(Value::as_object).is_some_and(|names| {
        names.keys().any(|name| {
            source.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    });
    let some = source == "groups" && claims.get("hasgroups").is_some_and(|has| has == true || has == "true");
    elsewhere || (some && claims.get("groups").is_none_or(Value::is_null))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn an_exact_name_wins_over_a_path_and_names_may_have_dots() {
        let claims = map(json!({
            "a.b": 1, "a": {"b": 2, "c.d": {"e": 3}, "f": {"g": 4}},
            "https://idp.example/groups": ["x"],
            "resource_access": {"my.client": {"roles": ["r"]}},
        }));
        for (path, expected) in [
            ("a.b", Some(json!(1))),
            ("a.c.d.e", Some(json!(3))),
            ("a.f.g", Some(json!(4))),
            ("a.f", Some(json!({"g": 4}))),
            ("https://idp.example/groups", Some(json!(["x"]))),
            ("resource_access.my.client.roles", Some(json!(["r"]))),
            ("a.f.g.h", None),
            ("a..f", None),
            ("a.", None),
            (".a", None),
            ("", None),
            ("b", None),
        ] {
            assert_eq!(lookup(&claims, path), expected.as_ref(), "{path}");
        }
    }

    #[test]
    fn what_is_mapped_takes_the_plain_place_also_when_there_is_nothing() {
        let mappings = ClaimMappings {
            groups: "realm_access.roles".to_owned(),
            email: "upn".to_owned(),
            name: "display".to_owned(),
            ..ClaimMappings::default()
        };
        let mut claims = map(json!({
            "groups": ["self-made"], "email": "self@made", "name": "x", "display": "",
            "roles": ["kept"], "realm_access": {"roles": ["admin"]},
        }));
        materialise(&mappings, &mut claims);
        assert_eq!(claims["groups"], json!(["admin"]));
        assert_eq!(claims["roles"], json!(["kept"]), "what is not mapped stays");
        assert!(!claims.contains_key("email") && !claims.contains_key("name"));
    }

    proptest::proptest! {
        #[test]
        fn no_path_makes_it_panic(path in "[a-c.é]{0,40}") {
            let claims = map(json!({"a": {"b": {"c": 1}}, "b.c": {"": 2}, "é": {"é.é": 3}}));
            let _ = lookup(&claims, &path);
        }
    }

    #[test]
    fn two_mappings_may_swap_places() {
        let mappings = ClaimMappings {
            groups: "roles".to_owned(),
            roles: "groups".to_owned(),
            ..ClaimMappings::default()
        };
        let mut claims = map(json!({"groups": ["g"], "roles": ["r"]}));
        materialise(&mappings, &mut claims);
        assert_eq!((&claims["groups"], &claims["roles"]), (&json!(["r"]), &json!(["g"])));
    }

    #[test]
    fn a_subject_is_a_text_that_is_not_empty() {
        let plain = ClaimMappings::default();
        let mapped = ClaimMappings { subject: "user.id".to_owned(), ..ClaimMappings::default() };
        for (mappings, claims, expected) in [
            (&plain, json!({"sub": "a"}), Some("a")),
            (&plain, json!({"sub": ""}), None),
            (&plain, json!({"sub": 7}), None),
            (&mapped, json!({"sub": "a", "user": {"id": "u"}}), Some("u")),
            (&mapped, json!({"sub": "a", "user": {"id": 7}}), Some("7")),
            (&mapped, json!({"sub": "a", "user": {"id": 7.5}}), None),
            (&mapped, json!({"sub": "a", "user": {"id": ["u"]}}), None),
            (&mapped, json!({"sub": "a"}), None),
        ] {
            assert_eq!(subject(mappings, &map(claims.clone())).as_deref(), expected, "{claims}");
        }
    }

    #[test]
    fn groups_that_are_elsewhere_are_unknown() {
        let plain = ClaimMappings::default();
        let roles = ClaimMappings { groups: "roles".to_owned(), ..ClaimMappings::default() };
        let elsewhere = json!({"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {}}});
        for (mappings, claims, unknown) in [
            (&plain, elsewhere.clone(), true),
            (&roles, elsewhere, false),
            (&plain, json!({"hasgroups": true}), true),
            (&plain, json!({"hasgroups": "true"}), true),
            (&plain, json!({"hasgroups": true, "groups": null}), true),
            (&plain, json!({"hasgroups": true, "groups": ["g"]}), false),
            (&plain, json!({"_claim_names": {"groups": "src1"}, "groups": ["g"]}), true),
            (&plain, json!({"hasgroups": false}), false),
            (&plain, json!({"_claim_names": {"address": "src1"}}), false),
            (&plain, json!({"_claim_names": "groups"}), false),
            (&plain, json!({}), false),
            (&plain, json!({"groups": []}), false),
        ] {
            assert_eq!(groups_unknown(mappings, &map(claims.clone())), unknown, "{claims}");
        }
    }
}
