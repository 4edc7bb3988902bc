//! Headers that no configuration may set.

/// Headers that the transport needs for itself, which no configuration may set.
const RESTRICTED: [&str; 17] = [
    "host",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "http2-settings",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-connection",
    "transfer-encoding",
    "content-length",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// True for a header that the transport needs for itself. The name is compared without case.
pub fn is_restricted(name: &str) -> bool {
    RESTRICTED.iter().any(|restricted| name.eq_ignore_ascii_case(restricted))
}

#[cfg(test)]
mod tests {
    use super::is_restricted;

    #[test]
    fn headers_of_the_transport_are_restricted_in_any_case() {
        for (name, expected) in [
            ("Host", true),
            ("content-LENGTH", true),
            ("x-forwarded-for", true),
            ("authorization", false),
            ("x-team", false),
        ] {
            assert_eq!(is_restricted(name), expected, "{name}");
        }
    }
}
