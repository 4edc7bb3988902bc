//! Values of flags and variables, as Go programs and charts write them. An empty one is none.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

/// A value, or none because it is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Maybe<T>(Option<T>);

impl<T> Maybe<T> {
    /// The value, if there is one.
    pub(crate) fn get(self) -> Option<T> {
        self.0
    }
}

impl<T: Copy> Maybe<T> {
    /// The value, or this.
    pub(crate) fn or(&self, default: T) -> T {
        self.0.unwrap_or(default)
    }
}

impl<T: Default> Maybe<T> {
    /// The value, or that of its type.
    pub(crate) fn or_default(self) -> T {
        self.0.unwrap_or_default()
    }
}

/// `true` and `false` in all spellings that Go takes.
pub(crate) fn switch(text: &str) -> Result<Maybe<bool>, String> {
    match text.trim() {
        "" => Ok(Maybe(None)),
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Maybe(Some(true))),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Maybe(Some(false))),
        _ => Err("it is true or false".to_owned()),
    }
}

/// `:8080`, `127.0.0.1:8080`, `[::1]:8080`; `0` is none.
pub(crate) fn bind_address(text: &str) -> Result<Maybe<SocketAddr>, String> {
    match text.trim() {
        "" | "0" => Ok(Maybe(None)),
        text => {
            let address = match text.strip_prefix(':') {
                Some(port) => {
                    port.parse().ok().map(|port: u16| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
                }
                None => text.parse().ok(),
            };
            let problem =
                || format!("{text} is no address: give one as :8080 or 127.0.0.1:8080, or 0 for none");
            Ok(Maybe(Some(address.ok_or_else(problem)?)))
        }
    }
}

/// Namespaces, separated by commas.
pub(crate) fn namespaces(text: &str) -> Result<Maybe<Vec<String>>, String> {
    names(text, "namespace", 63)
}

/// Secrets for pulling images, separated by commas.
pub(crate) fn pull_secrets(text: &str) -> Result<Maybe<Vec<String>>, String> {
    names(text, "Secret", 253)
}

/// `host:port`.
pub(crate) fn redis_address(text: &str) -> Result<Maybe<String>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Maybe(None));
    }
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match port.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(1..)) => Ok(Maybe(Some(text.to_owned()))),
        _ => Err("it has to be host:port".to_owned()),
    }
}

/// A time with its unit: `30s`, `15m`, `24h`, `90d`. Never zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let problem = || format!("{text} is no time: give one as 30s, 15m, 24h or 90d");
    let at = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(problem)?;
    let (count, unit) = text.split_at(at);
    let unit: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err(problem()),
    };
    let seconds = count.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    // A hundred years, so that no date overflows.
    seconds
        .filter(|seconds| (1..=3_153_600_000).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(problem)
}

fn names(text: &str, what: &str, longest: usize) -> Result<Maybe<Vec<String>>, String> {
    let mut found: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let dots = longest > 63;
        let fits = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || (dots && byte == b'.')
        };
        let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = name.as_bytes();
        if name.len() > longest
            || !bytes.iter().copied().all(fits)
            || !ends(bytes.first())
            || !ends(bytes.last())
        {
            return Err(format!("{name} is no name of a {what}"));
        }
        if !found.iter().any(|known| known == name) {
            found.push(name.to_owned());
        }
    }
    Ok(Maybe(Some(found).filter(|found| !found.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_leave_out_the_host() {
        for (text, expected) in [
            (":8080", Some("[::]:8080")),
            ("127.0.0.1:0", Some("127.0.0.1:0")),
            ("[::1]:9", Some("[::1]:9")),
            ("0", None),
            ("", None),
        ] {
            let address = bind_address(text).expect(text).get().map(|address| address.to_string());
            assert_eq!(address.as_deref(), expected, "{text}");
        }
        for text in ["8080", "localhost:8080", ":99999", ":", "a b"] {
            assert!(bind_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_has_a_unit() {
        for (text, seconds) in [("30s", 30), ("15m", 900), ("24h", 86400), (" 90d ", 7_776_000)] {
            assert_eq!(duration(text).expect(text), Duration::from_secs(seconds));
        }
        for text in ["", "30", "d", "0s", "1w", "-1h", "1h30m", "99999999999999999999d", "1000000d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_list_may_have_gaps_and_repeat_itself() {
        assert_eq!(namespaces(" a, ,b,a,").expect("a list").or_default(), ["a", "b"]);
        for text in ["A", "a_b", "-a", "a-", "a.b", &"a".repeat(64)] {
            assert!(namespaces(text).is_err(), "{text}");
        }
        assert_eq!(pull_secrets("a.b").expect("a list").or_default(), ["a.b"]);
    }
}
