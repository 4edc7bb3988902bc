//! Durations as Go writes them: `30s`, `1m30s`, `500ms`.

use std::time::Duration;

/// Reads a duration that is not negative. `None` when it is not one.
pub(super) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "h" => number * 3600.0,
            "m" => number * 60.0,
            "s" => number,
            "ms" => number / 1e3,
            "us" | "µs" => number / 1e6,
            "ns" => number / 1e9,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        rest = tail;
    }
    Some(total)
}

/// Reads a duration of whole seconds, `max` seconds at most. `None` when it is not one.
pub(super) fn seconds(text: &str, max: u64) -> Option<u64> {
    parse(text).filter(|found| found.subsec_nanos() == 0).map(|found| found.as_secs()).filter(|s| *s <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("30s", Some(30_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("500ms", Some(500)),
            ("0", Some(0)),
            ("", None),
            ("30", None),
            ("-1s", None),
            ("1d", None),
        ] {
            assert_eq!(parse(text).map(|found| found.as_millis()), expected, "{text}");
        }
    }

    #[test]
    fn half_a_second_is_not_rounded_to_never() {
        for (text, expected) in [
            ("10s", Some(10)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("500ms", None),
            ("11s", None),
            ("soon", None),
        ] {
            assert_eq!(seconds(text, 10), expected, "{text}");
        }
    }
}
