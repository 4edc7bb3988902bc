//! Strings of OAuth that must not be mixed up.

use std::fmt;

use url::Url;

/// Stands in an issuer for the tenant's id, as in the metadata of Microsoft Entra's `common` endpoint.
pub const TENANT: &str = "{tenantid}";

/// An authorization server's identifier (RFC 8414 §2): compared as a string, byte for byte, except
/// that one trailing slash has no meaning, as in ToolHive. With [`TENANT`] in it, it stands for one
/// issuer a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Issuer(String);

/// Why a string is no issuer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IssuerError {
    #[error("the issuer {value:?} is not a URL")]
    NotAUrl { value: String },
    #[error("the issuer {value:?} must be https (insecureAllowHTTP permits http)")]
    Insecure { value: String },
    #[error("the issuer {value:?} must have a host and no query, fragment or user information")]
    Shape { value: String },
}

impl Issuer {
    /// Reads an issuer.
    ///
    /// # Errors
    /// When it is no URL, is http without `allow_http`, or has parts that RFC 8414 §2 forbids.
    pub fn parse(value: &str, allow_http: bool) -> Result<Self, IssuerError> {
        let owned = || value.to_owned();
        let url = Url::parse(value).map_err(|_| IssuerError::NotAUrl { value: owned() })?;
        match url.scheme() {
            "https" => {}
            "http" if allow_http => {}
            _ => return Err(IssuerError::Insecure { value: owned() }),
        }
        let clean = url.host_str().is_some_and(|host| !host.is_empty())
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if !clean {
            return Err(IssuerError::Shape { value: owned() });
        }
        Ok(Self(value.to_owned()))
    }

    /// The issuer as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True when a claim or a discovery document names this issuer.
    pub fn is(&self, other: &str) -> bool {
        trim(&self.0) == trim(other)
    }

    /// True when it has [`TENANT`] in it.
    pub fn has_tenants(&self) -> bool {
        self.0.contains(TENANT)
    }

    /// The issuer of one tenant.
    pub fn of_tenant(&self, tenant: &str) -> String {
        self.0.replace(TENANT, tenant)
    }

    /// True when `iss` is this issuer, or, where it has tenants, that of the tenant `tid`, which must be
    /// one of `tenants`.
    pub fn covers(&self, iss: &str, tid: Option<&str>, tenants: &[String]) -> bool {
        if !self.has_tenants() {
            return self.is(iss);
        }
        let known = tid.filter(|tid| tenants.iter().any(|tenant| tenant == tid));
        known.is_some_and(|tid| trim(&self.of_tenant(tid)) == trim(iss))
    }

    /// Where the issuer's OpenID Connect metadata lives (OpenID Connect Discovery §4). One document for
    /// all tenants is that of `common`.
    pub fn discovery_url(&self) -> String {
        format!("{}/.well-known/openid-configuration", trim(&self.of_tenant("common")))
    }

    /// Where the issuer's OAuth metadata lives (RFC 8414 §3.1): the well-known part goes between host
    /// and path.
    pub fn oauth_metadata_url(&self) -> Option<String> {
        let url = Url::parse(&self.of_tenant("common")).ok()?;
        let path = url.path().trim_end_matches('/').to_owned();
        Some(format!("{}/.well-known/oauth-authorization-server{path}", url.origin().ascii_serialization()))
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a token is meant for (`aud`, RFC 7519 §4.1.3): compared byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Audience(String);

impl Audience {
    /// An audience; `None` for the empty string, which would match anything that forgets to check.
    pub fn parse(value: &str) -> Option<Self> {
        (!value.is_empty()).then(|| Self(value.to_owned()))
    }

    /// The audience as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn trim(issuer: &str) -> &str {
    issuer.strip_suffix('/').unwrap_or(issuer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_an_https_url_without_extras() {
        assert!(Issuer::parse("https://idp.example/realms/a", false).is_ok());
        assert!(Issuer::parse("http://127.0.0.1:7500", true).is_ok());
        for (bad, allow_http) in [
            ("http://idp.example", false),
            ("ftp://idp.example", true),
            ("idp.example", true),
            ("https://idp.example?x=1", true),
            ("https://idp.example#x", true),
            ("https://u:p@idp.example", true),
        ] {
            assert!(Issuer::parse(bad, allow_http).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_trailing_slash_makes_no_difference_and_case_does() {
        let issuer = Issuer::parse("https://idp.example/a/", false).unwrap();
        assert!(issuer.is("https://idp.example/a"));
        assert!(!issuer.is("https://idp.example/A"));
        assert!(!issuer.is("https://idp.example/a//"));
        assert_eq!(issuer.discovery_url(), "https://idp.example/a/.well-known/openid-configuration");
        assert_eq!(
            issuer.oauth_metadata_url().unwrap(),
            "https://idp.example/.well-known/oauth-authorization-server/a"
        );
    }

    #[test]
    fn an_issuer_of_tenants_covers_those_that_are_listed() {
        let issuer = Issuer::parse("https://login.example/{tenantid}/v2.0", false).unwrap();
        let tenants = ["t-1".to_owned(), "t-2".to_owned()];
        for (iss, tid, covered) in [
            ("https://login.example/t-1/v2.0", Some("t-1"), true),
            ("https://login.example/t-2/v2.0/", Some("t-2"), true),
            ("https://login.example/t-2/v2.0", Some("t-1"), false),
            ("https://login.example/t-3/v2.0", Some("t-3"), false),
            ("https://login.example/t-1/v2.0", None, false),
            ("https://login.example/{tenantid}/v2.0", Some("{tenantid}"), false),
            ("https://login.example/{tenantid}/v2.0", None, false),
        ] {
            assert_eq!(issuer.covers(iss, tid, &tenants), covered, "{iss} {tid:?}");
        }
        assert_eq!(
            issuer.discovery_url(),
            "https://login.example/common/v2.0/.well-known/openid-configuration"
        );
        let plain = Issuer::parse("https://idp.example", false).unwrap();
        assert!(
            plain.covers("https://idp.example/", None, &[])
                && !plain.covers("https://idp.example.", None, &[])
        );
    }
}
