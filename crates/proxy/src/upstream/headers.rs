//! Which headers cross the proxy, and which end here.

use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers of one hop (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; 7] =
    [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Older names of the same kind, and headers that say where a request came from, which only a proxy
/// may say.
const FROM_CLIENT: [&str; 5] = ["keep-alive", "proxy-connection", "http2-settings", "forwarded", "x-real-ip"];

/// Every header that begins like this is of that kind too.
const FORWARDED: &str = "x-forwarded-";

/// What a backend may not tell a client: it would act on the proxy's own origin.
const FROM_BACKEND: [&str; 5] =
    ["alt-svc", "clear-site-data", "keep-alive", "proxy-connection", "strict-transport-security"];

/// Our id of the request, for both sides.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Makes a client's headers into those for the backend. The client's own token, cookies and whatever
/// names a hop end here; the rest is passed on as it came.
pub fn to_backend(mut headers: HeaderMap, forward_token: bool, source: &str, request_id: &str) -> HeaderMap {
    remove_named_by_connection(&mut headers);
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    for name in FROM_CLIENT {
        headers.remove(name);
    }
    remove_by_prefix(&mut headers, FORWARDED);
    remove_misspelt(&mut headers, is_hop);
    headers.remove(HOST);
    headers.remove(COOKIE);
    headers.remove(CONTENT_LENGTH);
    headers.remove(EXPECT);
    if !forward_token {
        headers.remove(AUTHORIZATION);
    }
    // Answers are read by the proxy, so they come uncompressed.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Ok(value) = HeaderValue::from_str(source) {
        headers.insert("x-forwarded-for", value);
    }
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
    headers
}

/// Makes a backend's headers into those for the client. Challenges pass only when the token is the
/// client's own affair with the backend.
pub fn to_client(headers: &mut HeaderMap, direct: bool) {
    remove_named_by_connection(headers);
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    for name in FROM_BACKEND {
        headers.remove(name);
    }
    headers.remove(SET_COOKIE);
    headers.remove(REQUEST_ID);
    if !direct {
        headers.remove(WWW_AUTHENTICATE);
    }
    remove_by_prefix(headers, "access-control-");
}

/// Removes every header whose name, with each `_` read as `-`, is another and one that is `taken`: to a
/// server that hands headers on as variables both are the same, and a client could speak for the proxy.
pub fn remove_misspelt(headers: &mut HeaderMap, taken: impl Fn(&str) -> bool) {
    let named: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_') && taken(&name.as_str().replace('_', "-")))
        .cloned()
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// A client's query without its token (RFC 6750 §2.3), which is the proxy's affair as much as one in a header.
/// `None` when nothing is left.
pub fn without_token(query: &str) -> Option<String> {
    let is_token = |pair: &&str| {
        url::form_urlencoded::parse(pair.as_bytes()).next().is_some_and(|(name, _)| name == "access_token")
    };
    if !query.split('&').any(|pair| is_token(&pair)) {
        return Some(query.to_owned());
    }
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_token(pair)).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

/// True for a header that ends at the proxy, or that the proxy alone writes.
fn is_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|hop| hop == name)
        || FROM_CLIENT.contains(&name)
        || name.starts_with(FORWARDED)
        || name == CONTENT_LENGTH
        || name == REQUEST_ID
}

/// Removes every header whose name begins like this.
pub fn remove_by_prefix(headers: &mut HeaderMap, prefix: &str) {
    let named: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(prefix)).cloned().collect();
    for name in named {
        headers.remove(name);
    }
}

fn remove_named_by_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_clients_secrets_and_hops_end_here() {
        let from_client = headers(&[
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("proxy-authorization", "Basic x"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-client-cert", "Subject=admin"),
            ("x-request-id", "mine"),
            ("host", "proxy"),
            ("mcp-session-id", "s"),
            ("mcp-param-region", "eu"),
            ("x-custom", "kept"),
        ]);
        let sent = to_backend(from_client.clone(), false, "10.0.0.9", "ours");
        let mut names: Vec<_> = sent.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "accept-encoding",
                "mcp-param-region",
                "mcp-session-id",
                "x-custom",
                "x-forwarded-for",
                "x-request-id"
            ]
        );
        assert_eq!(sent["x-forwarded-for"], "10.0.0.9");
        assert_eq!(sent["x-request-id"], "ours");
        let direct = to_backend(from_client, true, "10.0.0.9", "ours");
        assert_eq!(direct["authorization"], "Bearer x");
    }

    #[test]
    fn a_query_loses_its_token_and_nothing_else() {
        for (query, expected) in [
            ("", Some("")),
            ("a=1&&b=%2F+", Some("a=1&&b=%2F+")),
            ("access_token=t", None),
            ("a&access_token=t&b", Some("a&b")),
            ("access%5ftoken=t&access_token&a", Some("a")),
            ("my_access_token=t", Some("my_access_token=t")),
        ] {
            assert_eq!(without_token(query).as_deref(), expected, "{query}");
        }
    }

    #[test]
    fn a_backend_cannot_act_on_the_proxys_origin() {
        let from_backend = [
            ("set-cookie", "a=b"),
            ("alt-svc", "h3=\":443\""),
            ("clear-site-data", "\"*\""),
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", "x"),
            ("www-authenticate", "Bearer"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("mcp-session-id", "s"),
            ("content-type", "application/json"),
        ];
        let mut seen = headers(&from_backend);
        to_client(&mut seen, false);
        let names: Vec<_> = seen.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["mcp-session-id", "content-type"]);
        let mut direct = headers(&from_backend);
        to_client(&mut direct, true);
        assert!(direct.contains_key("www-authenticate") && !direct.contains_key("set-cookie"));
    }
}
