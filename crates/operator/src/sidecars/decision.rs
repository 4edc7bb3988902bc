//! Whether sidecars are injected, and who says so.

use std::collections::BTreeMap;

use super::names::{SWITCH_ANNOTATION, SWITCH_LABEL};

/// Whether to inject, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub inject: bool,
    pub reason: Reason,
}

/// What decided; in the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The object's annotation [`SWITCH_ANNOTATION`].
    ObjectAnnotation,
    /// The namespace's label [`SWITCH_LABEL`].
    NamespaceLabel,
    /// The namespace's annotation [`SWITCH_ANNOTATION`].
    NamespaceAnnotation,
    /// `--enable-client-registration`.
    Flag,
}

impl Reason {
    /// For audit annotations and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ObjectAnnotation => "object-annotation",
            Self::NamespaceLabel => "namespace-label",
            Self::NamespaceAnnotation => "namespace-annotation",
            Self::Flag => "flag",
        }
    }
}

/// Decides. The first of them that says `true` or `false` wins; any other value says nothing.
pub fn decide(
    object_annotations: &BTreeMap<String, String>,
    namespace_labels: &BTreeMap<String, String>,
    namespace_annotations: &BTreeMap<String, String>,
    default_on: bool,
) -> Decision {
    let said = |map: &BTreeMap<String, String>, key: &str| match map.get(key).map(String::as_str) {
        Some("true") => Some(true),
        Some("false") => Some(false),
        _ => None,
    };
    [
        (said(object_annotations, SWITCH_ANNOTATION), Reason::ObjectAnnotation),
        (said(namespace_labels, SWITCH_LABEL), Reason::NamespaceLabel),
        (said(namespace_annotations, SWITCH_ANNOTATION), Reason::NamespaceAnnotation),
    ]
    .into_iter()
    .find_map(|(inject, reason)| inject.map(|inject| Decision { inject, reason }))
    .unwrap_or(Decision { inject: default_on, reason: Reason::Flag })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn the_first_that_says_something_decides() {
        let none = BTreeMap::new();
        let (yes, no, odd) =
            (map(SWITCH_ANNOTATION, "true"), map(SWITCH_ANNOTATION, "false"), map(SWITCH_ANNOTATION, "yes"));
        let (label, unlabelled) = (map(SWITCH_LABEL, "true"), map(SWITCH_LABEL, "false"));
        for (object, labels, annotations, flag, inject, reason) in [
            (&yes, &unlabelled, &no, false, true, Reason::ObjectAnnotation),
            (&no, &label, &yes, true, false, Reason::ObjectAnnotation),
            (&odd, &label, &no, false, true, Reason::NamespaceLabel),
            (&none, &unlabelled, &yes, true, false, Reason::NamespaceLabel),
            (&none, &none, &yes, false, true, Reason::NamespaceAnnotation),
            (&none, &none, &no, true, false, Reason::NamespaceAnnotation),
            (&none, &none, &odd, true, true, Reason::Flag),
            (&none, &none, &none, false, false, Reason::Flag),
        ] {
            assert_eq!(decide(object, labels, annotations, flag), Decision { inject, reason });
        }
    }
}
