//! The configuration of the SPIFFE helper where nobody has written one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::names::{KEYCLOAK_REALM, KEYCLOAK_URL, SOCKET_DIR, SVID_DIR};

/// Audience of the JWT-SVID where nobody says which realm takes it; that of the original platform.
pub const FALLBACK_AUDIENCE: &str = "kagenti";

/// What `helper.conf` says in the ConfigMap `spiffe-helper-config` that the operator makes: the socket and the
/// files that the sidecars expect, and one JWT-SVID for `audience`.
///
/// The key and the JWT-SVID can be read by the pod's group; certificates and bundles are no secret.
pub fn default_helper_config(audience: &str) -> String {
    format!(
        r#"agent_address = "{SOCKET_DIR}/spire-agent.sock"
cert_dir = "{SVID_DIR}"
svid_file_name = "svid.pem"
svid_key_file_name = "svid_key.pem"
svid_bundle_file_name = "svid_bundle.pem"
jwt_svids = [
  {{
    jwt_audience = {audience}
    jwt_svid_file_name = "jwt_svid.token"
  }}
]
jwt_bundle_file_name = "jwt_bundle.json"
cert_file_mode = 0644
key_file_mode = 0640
jwt_svid_file_mode = 0640
jwt_bundle_file_mode = 0644
"#,
        audience = quoted(audience),
    )
}

/// The audience of that JWT-SVID: the issuer of the realm that `environments` names, or else `known`, or else
/// [`FALLBACK_AUDIENCE`]. A JWT-SVID is taken by Keycloak only when it names the realm's issuer exactly.
pub fn default_helper_audience(
    environments: Option<&BTreeMap<String, String>>,
    known: Option<(&str, &str)>,
) -> String {
    let said = |key: &str| Some(environments?.get(key)?.trim()).filter(|text| !text.is_empty());
    said(KEYCLOAK_URL)
        .zip(said(KEYCLOAK_REALM))
        .or(known)
        .and_then(|(url, realm)| issuer(url, realm))
        .unwrap_or_else(|| FALLBACK_AUDIENCE.to_owned())
}

/// Issuer of a Keycloak realm; none for what is no URL of a server.
fn issuer(url: &str, realm: &str) -> Option<String> {
    let url = url.trim_end_matches('/');
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let plain = |c: char| c.is_ascii_graphic() && !"\"\\${}<>`".contains(c);
    if rest.is_empty() || !rest.chars().all(plain) {
        return None;
    }
    let mut issuer = format!("{url}/realms/");
    for byte in realm.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            issuer.push(char::from(byte));
        } else {
            let _ = write!(issuer, "%{byte:02X}");
        }
    }
    Some(issuer)
}

/// A string of HCL. What begins an interpolation there can't be written, so it is left out.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars().filter(|c| !c.is_control()) {
        if c == '{' && quoted.ends_with('$') {
            continue;
        }
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_names_the_files_that_the_sidecars_expect() {
        insta::assert_snapshot!(default_helper_config("https://id.example.com/realms/a%20b"));
    }

    #[test]
    fn the_audience_is_the_issuer_of_the_realm_that_is_known() {
        let of = |url: &str, realm: &str| {
            BTreeMap::from([
                (KEYCLOAK_URL.to_owned(), url.to_owned()),
                (KEYCLOAK_REALM.to_owned(), realm.to_owned()),
            ])
        };
        let own = Some(("https://own.example.com", "own"));
        for (environments, known, expected) in [
            (Some(of("https://id.example.com", "demo")), own, "https://id.example.com/realms/demo"),
            (Some(of("http://keycloak:8080/", "a b")), None, "http://keycloak:8080/realms/a%20b"),
            (Some(of(" ", "demo")), own, "https://own.example.com/realms/own"),
            (Some(of("keycloak:8080", "demo")), None, "kagenti"),
            (Some(of("https://x\"\n", "demo")), None, "kagenti"),
            (Some(of("https://${file(\"/etc/passwd\")}", "demo")), None, "kagenti"),
            (Some(BTreeMap::from([(KEYCLOAK_URL.to_owned(), "https://x".to_owned())])), None, "kagenti"),
            (None, own, "https://own.example.com/realms/own"),
            (None, None, "kagenti"),
        ] {
            assert_eq!(default_helper_audience(environments.as_ref(), known), expected);
        }
    }

    #[test]
    fn an_audience_stays_one_string() {
        let line = |audience: &str| {
            let text = default_helper_config(audience);
            text.lines().find(|line| line.contains("jwt_audience")).unwrap().trim().to_owned()
        };
        assert_eq!(line("a\"\n\\${b}"), r#"jwt_audience = "a\"\\$b}""#);
    }
}
