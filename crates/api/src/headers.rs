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

/// Headers that say something about a message, which a token in their place would break.
const OF_MESSAGES: [&str; 11] = [
    "accept",
    "accept-encoding",
    "cache-control",
    "content-encoding",
    "content-type",
    "cookie",
    "last-event-id",
    "origin",
    "traceparent",
    "tracestate",
    "user-agent",
];

/// True for a header that may carry a token of the proxy's.
pub fn may_carry_token(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    !is_restricted(&lower) && !lower.starts_with("mcp-") && !OF_MESSAGES.contains(&lower.as_str())
}

#[cfg(test)]
mod tests {
    use super::{is_restricted, may_carry_token};

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

    #[test]
    fn a_token_takes_the_place_of_nothing_that_a_message_needs() {
        for (name, expected) in [
            ("Authorization", true),
            ("X-Upstream-Authorization", true),
            ("Content-Type", false),
            ("COOKIE", false),
            ("Mcp-Session-Id", false),
            ("Host", false),
        ] {
            assert_eq!(may_carry_token(name), expected, "{name}");
        }
    }
}
