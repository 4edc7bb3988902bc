//! The first table has signatures that AWS publishes (its SigV4 test suite, and the example of the IAM
//! documentation). The second has signatures of botocore's `SigV4Auth`, told to sign the same headers.

use super::*;

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn signature(authorization: &str) -> &str {
    authorization.rsplit('=').next().unwrap()
}

#[test]
fn signatures_are_those_that_aws_publishes() {
    let secret = Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
    let keys = Keys { access_key_id: "AKIDEXAMPLE", secret_access_key: &secret, session_token: None };
    let form = "application/x-www-form-urlencoded";
    let iam = "application/x-www-form-urlencoded; charset=utf-8";
    let unreserved = "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeo\
                 IYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75\
                 YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSY\
                 vKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
    for (name, method, place, header, body, expected) in [
        (
            "get-vanilla",
            "GET",
            "/",
            None,
            "",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "get-vanilla-query-order-key-case",
            "GET",
            "/?Param2=value2&Param1=value1",
            None,
            "",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "get-vanilla-utf8-query",
            "GET",
            "/?\u{1234}=bar",
            None,
            "",
            "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
        ),
        (
            "get-unreserved",
            "GET",
            unreserved,
            None,
            "",
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
        (
            "get-slashes",
            "GET",
            "//example//",
            None,
            "",
            "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84",
        ),
        (
            "post-vanilla",
            "POST",
            "/",
            None,
            "",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (
            "post-x-www-form-urlencoded",
            "POST",
            "/",
            Some(("content-type", form)),
            "Param1=value1",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
        (
            "post-sts-header-before",
            "POST",
            "/",
            Some(("x-amz-security-token", token)),
            "",
            "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
        ),
        (
            "the example of the IAM documentation",
            "GET",
            "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
            Some(("content-type", iam)),
            "",
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
        ),
    ] {
        let (url, service) = match place.starts_with("https:") {
            true => (place.to_owned(), "iam"),
            false => (format!("https://example.amazonaws.com{place}"), "service"),
        };
        let url = Url::parse(&url).unwrap();
        let mut signed = BTreeMap::from([
            ("host".to_owned(), url.host_str().unwrap().to_owned()),
            ("x-amz-date".to_owned(), "20150830T123600Z".to_owned()),
        ]);
        signed.extend(header.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let signed = signed.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
        let scope = Scope { region: "us-east-1", service };
        let method = method.parse().unwrap();
        let body = hex(digest(&SHA256, body.as_bytes()).as_ref());
        let value = authorization(&keys, &scope, "20150830T123600Z", &method, &url, &signed, &body);
        assert_eq!(signature(&value), expected, "{name}");
    }
}

#[test]
fn a_signed_request_is_the_one_that_another_implementation_makes() {
    let keys = Keys {
        access_key_id: "ASIAEXAMPLE",
        secret_access_key: &Secret::new("secret/EXAMPLE+key"),
        session_token: Some(&Secret::new("session//token==")),
    };
    let scope = Scope { region: "eu-central-1", service: "aws-mcp" };
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let message = br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/json"),
        ("mcp-session-id", "s-1"),
        ("mcp-protocol-version", "2025-11-25"),
        ("accept", "application/json, text/event-stream"),
        ("x-forwarded-for", "10.0.0.9"),
        ("authorization", "Bearer of the caller"),
        ("x-amz-date", "of the caller"),
        ("x-amz-content-sha256", "of the caller"),
        ("x-amz-security-token", "of the caller"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let url = Url::parse("https://mcp.eu-central-1.example/mcp").unwrap();
    sign(&keys, &scope, now, &Method::POST, &url, &mut headers, message).unwrap();
    assert_eq!(
        headers["authorization"],
        "AWS4-HMAC-SHA256 Credential=ASIAEXAMPLE/20260101/eu-central-1/aws-mcp/aws4_request, \
         SignedHeaders=content-type;host;mcp-protocol-version;mcp-session-id;x-amz-content-sha256;x-amz-date;\
         x-amz-security-token, Signature=9a3344ca8bff6649032ece2d1d525e8703382b743e124d6064d6b678d0a41a1b"
    );
    assert_eq!(headers["x-amz-date"], "20260101T000000Z");
    assert_eq!(headers["x-amz-security-token"], "session//token==");
    assert_eq!(
        headers["x-amz-content-sha256"],
        "b9e9dd030c7c21f7951be2c67c4f74cf2ef76960e7355887b6afa33c074df553"
    );
    for name in ["authorization", "x-amz-security-token"] {
        assert!(headers[name].is_sensitive() && headers.get_all(name).iter().count() == 1, "{name}");
    }

    let mut headers = HeaderMap::new();
    headers.insert("mcp-session-id", HeaderValue::from_static("s-1"));
    let url = Url::parse("https://mcp.example:8443/a%2Fb/c%20d/\u{e9}").unwrap();
    sign(&keys, &scope, now, &Method::GET, &url, &mut headers, b"").unwrap();
    let value = headers["authorization"].to_str().unwrap();
    assert_eq!(signature(value), "bb72e4d329aff319f5a23991876616b29e2302ecfd47a9631a08e821648dd865");
    assert_eq!(headers["x-amz-content-sha256"], EMPTY);
}

#[test]
fn a_header_is_signed_in_the_bytes_that_are_sent() {
    let keys = Keys {
        access_key_id: "ASIAEXAMPLE",
        secret_access_key: &Secret::new("secret/EXAMPLE+key"),
        session_token: Some(&Secret::new("session//token==")),
    };
    let scope = Scope { region: "eu-central-1", service: "aws-mcp" };
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let url = Url::parse("https://mcp.example/mcp").unwrap();
    // Botocore knows UTF-8 only; the last one is of the algorithm written down once more.
    let utf8 = "3190e0b85011f8c578a32c5ae87a8938cd4d67f09693ccf1f669116e41381f40";
    let latin1 = "825f7a5d55a649258f6ec84a2aec1c5293afb83b12c78c86c4f4f2b4d00b7cfe";
    for (value, expected) in
        [("w\u{e4}rme".as_bytes(), utf8), ("  w\u{e4}rme ".as_bytes(), utf8), (b"w\xe4rme", latin1)]
    {
        let mut headers = HeaderMap::new();
        headers.insert("mcp-name", HeaderValue::from_bytes(value).unwrap());
        sign(&keys, &scope, now, &Method::GET, &url, &mut headers, b"").unwrap();
        assert_eq!(signature(headers["authorization"].to_str().unwrap()), expected, "{value:?}");
    }
}

#[test]
fn what_cannot_be_signed_is_not_sent() {
    let secret = Secret::new("s");
    let broken = Secret::new("line\nbreak");
    let scope = Scope { region: "eu-central-1", service: "aws-mcp" };
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let good = Url::parse("https://mcp.example/").unwrap();
    for (url, token) in [("data:x", &secret), (good.as_str(), &broken)] {
        let keys = Keys { access_key_id: "A", secret_access_key: &secret, session_token: Some(token) };
        let mut headers = HeaderMap::new();
        let url = Url::parse(url).unwrap();
        let error = sign(&keys, &scope, now, &Method::GET, &url, &mut headers, b"").unwrap_err();
        assert!(matches!(error, AwsError::Signing { .. }), "{url}");
        assert!(!headers.contains_key(AUTHORIZATION));
    }
}
