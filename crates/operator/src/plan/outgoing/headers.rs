//! Headers that are added on the way.

use std::collections::BTreeMap;

use skep_api::crd::parse::INVALID_FIELD;
use skep_api::crd::pod::HeaderForwardSpec;
use skep_api::headers::is_restricted;
use skep_api::names::{header_secret, secret_env};

use super::super::EnvSource;
use super::super::findings::Findings;
use super::Outgoing;

/// Adds `headerForward` to what is sent.
pub(in super::super) fn forward(
    spec: &HeaderForwardSpec,
    name: &str,
    outgoing: &mut Outgoing,
    findings: &mut Findings<'_>,
) {
    let at = "spec.headerForward";
    let mut taken = Taken::of(outgoing);
    for (header, value) in spec.add_plaintext_headers.iter().flatten() {
        let path = format!("{at}.addPlaintextHeaders.{header}");
        check_name(&path, header, findings);
        taken.once(&path, header, findings);
        if value.chars().any(|c| c.is_control() && c != '\t') {
            findings.error(&path, INVALID_FIELD, "A header's value can't hold control characters.");
        }
        if ["authorization", "cookie", "api-key", "apikey", "token", "secret"]
            .iter()
            .any(|word| header.to_ascii_lowercase().contains(word))
        {
            findings.warning(&path, "SecretInManifest", "This looks like a secret, and everybody who can read the object can read it. Use `addHeadersFromSecret`.");
        }
        outgoing.headers.add_plaintext_headers.insert(header.clone(), value.clone());
    }
    for (index, header) in spec.add_headers_from_secret.iter().flatten().enumerate() {
        let path = format!("{at}.addHeadersFromSecret[{index}]");
        let at_name = format!("{path}.headerName");
        check_name(&at_name, &header.header_name, findings);
        let new = taken.once(&at_name, &header.header_name, findings);
        let secret = &header.value_secret_ref;
        findings.secret(&format!("{path}.valueSecretRef"), "HeaderSecretNotFound", &secret.name, &secret.key);
        let identifier = header_secret(&header.header_name, name);
        if let Some(other) = outgoing
            .headers
            .add_headers_from_secret
            .iter()
            .find(|(_, known)| **known == identifier)
            .filter(|_| new)
        {
            let message = format!(
                "The secrets of `{}` and `{}` would share one environment variable, because `-` and `_` become the same there. Rename one.",
                other.0, header.header_name
            );
            findings.error(at_name, "DuplicateEntry", message);
        }
        outgoing.env.push(EnvSource {
            name: secret_env(&identifier),
            secret: secret.name.clone(),
            key: secret.key.clone(),
        });
        outgoing.headers.add_headers_from_secret.insert(header.header_name.clone(), identifier);
    }
}

/// Headers that are set already.
struct Taken {
    /// In lower case, and as they were written.
    names: BTreeMap<String, String>,
    /// The header of the credential of an MCPExternalAuthConfig.
    credential: Option<String>,
    /// Requests are signed, which takes headers of its own.
    signed: bool,
}

impl Taken {
    fn of(outgoing: &Outgoing) -> Self {
        let names = outgoing
            .headers
            .add_headers_from_secret
            .keys()
            .map(|header| (header.to_ascii_lowercase(), header.clone()))
            .collect();
        Self { names, credential: outgoing.credential_header(), signed: outgoing.aws_sts.is_some() }
    }

    /// Takes a header; false when somebody else has it.
    fn once(&mut self, path: &str, header: &str, findings: &mut Findings<'_>) -> bool {
        let errors = findings.errors();
        let lower = header.to_ascii_lowercase();
        if let Some(other) = self.names.insert(lower.clone(), header.to_owned()) {
            findings.error(path, "DuplicateEntry", format!("The header `{other}` is set already; keep one."));
        }
        if let Some(own) = self.credential.as_deref().filter(|own| own.eq_ignore_ascii_case(header)) {
            findings.error(
                path,
                "DuplicateEntry",
                format!("The MCPExternalAuthConfig sets `{own}` already; keep one."),
            );
        } else if self.signed && lower.starts_with("x-amz-") {
            findings.error(
                path,
                "DuplicateEntry",
                format!("`{header}` belongs to the signature of requests to AWS. Remove it."),
            );
        } else if lower == "authorization" {
            findings.warning(
                path,
                "AuthorizationHeader",
                "Every caller reaches the remote server with this one credential.",
            );
        }
        findings.errors() == errors
    }
}

/// A header that may be set: a name, and nobody else's business.
pub(super) fn check_name(path: &str, name: &str, findings: &mut Findings<'_>) {
    let lower = name.to_ascii_lowercase();
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(token) {
        findings.error(
            path,
            INVALID_FIELD,
            format!("`{}` is not the name of a header (RFC 9110 §5.1).", name.escape_debug()),
        );
    } else if is_restricted(&lower) || lower.starts_with("mcp-") {
        findings.error(path, "RestrictedHeader", format!("The header `{name}` is restricted: it belongs to the connection or to the protocol, and can't be set."));
    }
}
