//! Text of users in messages: one line each, and no more of it than an API server passes on.

/// Bytes of all warnings of one answer. The API server passes on 4096 of all webhooks together and cuts every
/// warning short when there are more, and an MCPServer has two reviews.
pub(super) const WARNING_BYTES: usize = 2048;
/// Bytes of one message that denies.
pub(super) const MESSAGE_BYTES: usize = 16 * 1024;
/// Room for the line that counts what was left out.
const REST: usize = 40;

/// One line of at most `most` bytes: control characters become spaces, and what is cut off `…`.
pub(super) fn one_line(text: &str, most: usize) -> String {
    let mut line = String::with_capacity(text.len().min(most));
    for letter in text.chars() {
        let letter =
            if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') { ' ' } else { letter };
        if line.len() + letter.len_utf8() > most {
            while line.len() + '…'.len_utf8() > most && line.pop().is_some() {}
            line.push('…');
            return line;
        }
        line.push(letter);
    }
    line
}

/// Each of them once and on one line, together at most [`WARNING_BYTES`]; the last line counts what had no room.
pub(super) fn bounded_warnings(warnings: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let (mut bytes, mut left_out) = (0, 0);
    for warning in warnings {
        let line = one_line(warning, WARNING_BYTES - REST);
        if line.trim().is_empty() || lines.contains(&line) {
            continue;
        }
        if left_out > 0 || bytes + line.len() > WARNING_BYTES - REST {
            left_out += 1;
            continue;
        }
        bytes += line.len();
        lines.push(line);
    }
    if left_out > 0 {
        lines.push(format!("and {left_out} more"));
    }
    lines
}

/// All of them in one message of at most [`MESSAGE_BYTES`], which counts what had no room.
pub(super) fn bounded_message(lines: impl IntoIterator<Item = String>) -> String {
    let mut message = String::new();
    let mut left_out = 0;
    for line in lines {
        let line = one_line(&line, MESSAGE_BYTES / 4);
        if left_out > 0 || message.len() + line.len() > MESSAGE_BYTES - REST {
            left_out += 1;
            continue;
        }
        if !message.is_empty() {
            message.push('\n');
        }
        message.push_str(&line);
    }
    if left_out > 0 {
        message.push_str(&format!("\nand {left_out} more"));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_no_longer_than_it_may_be() {
        assert_eq!(one_line("a\nb\u{7f}\u{2028}c", 100), "a b  c");
        assert_eq!(one_line("abcdef", 6), "abcdef");
        assert_eq!(one_line("abcdefg", 6), "abc…");
        assert_eq!(one_line("ääää", 7), "ää…");
        for most in 3..20 {
            assert!(one_line(&"€uro ".repeat(9), most).len() <= most);
        }
    }

    #[test]
    fn warnings_fit_and_what_does_not_is_counted() {
        let many: Vec<String> = (0..500).map(|index| format!("warning number {index}")).collect();
        let lines = bounded_warnings(&many);
        assert!(lines.iter().map(String::len).sum::<usize>() <= WARNING_BYTES);
        let last = lines.last().unwrap();
        assert_eq!(*last, format!("and {} more", 500 - (lines.len() - 1)));
        let long = bounded_warnings(&["x".repeat(1_000_000), "y".to_owned()]);
        assert!(long.iter().map(String::len).sum::<usize>() <= WARNING_BYTES, "{}", long.len());
        assert_eq!(bounded_warnings(&["a".to_owned(), "a".to_owned(), "\n".to_owned()]), ["a"]);
    }

    #[test]
    fn a_message_fits_and_counts_what_does_not() {
        assert_eq!(bounded_message(["a: b".to_owned(), "c: d".to_owned()]), "a: b\nc: d");
        let message = bounded_message((0..5000).map(|index| format!("path.{index}: wrong")));
        assert!(message.len() <= MESSAGE_BYTES && message.ends_with(" more"), "{}", message.len());
    }
}
