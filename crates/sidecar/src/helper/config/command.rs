//! The command that is run once there is something to read for it.

use std::path::PathBuf;

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

/// Splits arguments at white space. A part in double quotes is one argument, `""` in it is a quote, and
/// nothing else has a meaning. Unlike a shell and like spiffe-helper; unlike the latter, several spaces are one.
pub(super) fn split(text: &str) -> Result<Vec<String>, &'static str> {
    let mut arguments = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        let Some(&first) = rest.peek() else { return Ok(arguments) };
        let mut argument = String::new();
        if first == '"' {
            rest.next();
            loop {
                match rest.next() {
                    Some('"') if rest.next_if_eq(&'"').is_some() => argument.push('"'),
                    Some('"') => break,
                    Some(c) => argument.push(c),
                    None => return Err("a quote has no end"),
                }
            }
            if rest.peek().is_some_and(|c| !c.is_whitespace()) {
                return Err("a space is missing after a quoted argument");
            }
        } else {
            while let Some(c) = rest.next_if(|c| !c.is_whitespace()) {
                if c == '"' {
                    return Err("a quote may stand only around a whole argument");
                }
                argument.push(c);
            }
        }
        arguments.push(argument);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_split_at_spaces_outside_of_quotes() {
        let all: [(&str, Result<&[&str], &str>); 10] = [
            ("", Ok(&[])),
            ("   ", Ok(&[])),
            ("-c nginx.conf", Ok(&["-c", "nginx.conf"])),
            ("a  b\tc ", Ok(&["a", "b", "c"])),
            (r#"-c "echo hello world" x"#, Ok(&["-c", "echo hello world", "x"])),
            (r#""say ""hi""" """#, Ok(&[r#"say "hi""#, ""])),
            (r"it's \n", Ok(&["it's", r"\n"])),
            (r#"-c "open"#, Err("a quote has no end")),
            (r#"--name="x y""#, Err("a quote may stand only around a whole argument")),
            (r#""a"b"#, Err("a space is missing after a quoted argument")),
        ];
        for (text, wanted) in all {
            let wanted = wanted.map(|words| words.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(split(text), wanted, "{text}");
        }
    }
}
