//! The HCL (version 1) that configuration files of the helper are written in: assignments, blocks, lists,
//! strings, numbers and booleans, and JSON, which HCL reads too.
//!
//! Written for this one purpose, because a configuration error has to be found on its line: every value knows
//! where it stands, no key is lost when it stands twice, and a number keeps its digits, so that `0644` and
//! `644` stay different things.

use std::iter::Peekable;
use std::str::Chars;

/// Objects and lists within each other; more is no configuration.
const DEPTH: usize = 16;

/// `key = value` or `key { ... }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) value: Value,
}

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) line: usize,
    pub(super) data: Data,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    Text(String),
    /// As it was written.
    Number(String),
    Bool(bool),
    List(Vec<Value>),
    Object(Vec<Item>),
}

impl Data {
    /// What it is, for messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Number(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// What can't be read, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) line: usize,
    pub(super) message: String,
}

/// Reads a whole document.
pub(super) fn parse(text: &str) -> Result<Vec<Item>, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { rest: text.chars().peekable(), line: 1 };
    reader.skip_blank()?;
    // JSON is an object as a whole; HCL leaves the braces out.
    let whole = reader.take('{');
    let items = reader.items(if whole { Some('}') } else { None }, 0)?;
    reader.skip_blank()?;
    match reader.peek() {
        None => Ok(items),
        Some(other) => Err(reader.error(format!("nothing may follow the last `}}`, but {other:?} does"))),
    }
}

struct Reader<'t> {
    rest: Peekable<Chars<'t>>,
    line: usize,
}

impl Reader<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        if next == Some('\n') {
            self.line += 1;
        }
        next
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.next();
        }
        found
    }

    fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError { line: self.line, message: message.into() }
    }

    /// Passes over white space and comments (`#`, `//`, `/* */`).
    fn skip_blank(&mut self) -> Result<(), SyntaxError> {
        loop {
            match self.peek() {
                Some(c) if c.is_whitespace() => {
                    self.next();
                }
                Some('#') => self.skip_line(),
                Some('/') => {
                    let start = self.line;
                    self.next();
                    match self.peek() {
                        Some('/') => self.skip_line(),
                        Some('*') => {
                            self.next();
                            self.skip_comment(start)?;
                        }
                        _ => return Err(self.error("a single `/` has no meaning here; put text in quotes")),
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    fn skip_line(&mut self) {
        while self.peek().is_some_and(|c| c != '\n') {
            self.next();
        }
    }

    fn skip_comment(&mut self, start: usize) -> Result<(), SyntaxError> {
        let mut star = false;
        while let Some(c) = self.next() {
            if star && c == '/' {
                return Ok(());
            }
            star = c == '*';
        }
        Err(SyntaxError { line: start, message: "the comment `/*` has no end".to_owned() })
    }

    /// Items up to `end`, which is consumed, or to the end of the document.
    fn items(&mut self, end: Option<char>, depth: usize) -> Result<Vec<Item>, SyntaxError> {
        let start = self.line;
        let mut items = Vec::new();
        loop {
            self.skip_blank()?;
            match self.peek() {
                None if end.is_none() => return Ok(items),
                None => {
                    return Err(SyntaxError { line: start, message: "the `{` has no `}`".to_owned() });
                }
                found if found == end => {
                    self.next();
                    return Ok(items);
                }
                Some(_) => items.push(self.item(depth)?),
            }
            self.skip_blank()?;
            self.take(',');
        }
    }

    fn item(&mut self, depth: usize) -> Result<Item, SyntaxError> {
        let line = self.line;
        let key = match self.peek() {
            Some('"') => self.string()?,
            Some(c) if c.is_alphabetic() || c == '_' => self.word(),
            Some(other) => return Err(self.error(format!("a key is wanted here, not {other:?}"))),
            None => return Err(self.error("a key is wanted here")),
        };
        self.skip_blank()?;
        match self.peek() {
            Some('=' | ':') => {
                self.next();
                self.skip_blank()?;
                let value = self.value(depth)?;
                Ok(Item { key, line, value })
            }
            Some('{') => {
                let value = self.value(depth)?;
                Ok(Item { key, line, value })
            }
            Some('"') => Err(self.error(format!("`{key}` takes no label; write `{key} = ` or `{key} {{`"))),
            _ => Err(self.error(format!("`=` or `{{` is missing after `{key}`"))),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let line = self.line;
        if depth >= DEPTH {
            return Err(self.error("lists and objects are nested too deeply"));
        }
        let data = match self.peek() {
            Some('"') => Data::Text(self.string()?),
            Some('[') => {
                self.next();
                Data::List(self.list(depth + 1)?)
            }
            Some('{') => {
                self.next();
                Data::Object(self.items(Some('}'), depth + 1)?)
            }
            Some('<') => {
                return Err(self.error("heredocs (`<<`) are not read here; write a string in quotes"));
            }
            Some(c) if c.is_ascii_digit() || c == '-' || c == '+' => Data::Number(self.word()),
            Some(c) if c.is_alphabetic() || c == '_' => {
                let word = self.word();
                match word.as_str() {
                    "true" => Data::Bool(true),
                    "false" => Data::Bool(false),
                    _ => return Err(SyntaxError { line, message: format!("`{word}` needs quotes") }),
                }
            }
            Some(other) => return Err(self.error(format!("a value is wanted here, not {other:?}"))),
            None => return Err(self.error("a value is wanted here, but the file ends")),
        };
        Ok(Value { line, data })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value>, SyntaxError> {
        let start = self.line;
        let mut values = Vec::new();
        loop {
            self.skip_blank()?;
            match self.peek() {
                None => return Err(SyntaxError { line: start, message: "the `[` has no `]`".to_owned() }),
                Some(']') => {
                    self.next();
                    return Ok(values);
                }
                Some(_) => values.push(self.value(depth)?),
            }
            self.skip_blank()?;
            if !self.take(',') && self.peek().is_some_and(|c| c != ']') {
                return Err(self.error("a `,` is missing between two values of a list"));
            }
        }
    }

    /// Letters, digits and what may stand between them in keys and numbers.
    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.peek() {
            if !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '+')) {
                break;
            }
            word.push(c);
            self.next();
        }
        word
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        let start = self.line;
        let open = || SyntaxError { line: start, message: "the string has no closing `\"`".to_owned() };
        self.next();
        let mut text = String::new();
        loop {
            match self.peek().ok_or_else(open)? {
                '\n' => return Err(open()),
                '"' => {
                    self.next();
                    return Ok(text);
                }
                '\\' => {
                    self.next();
                    let escape = self.next().ok_or_else(open)?;
                    text.push(self.escape(escape)?);
                }
                other => {
                    self.next();
                    text.push(other);
                }
            }
        }
    }

    fn escape(&mut self, escape: char) -> Result<char, SyntaxError> {
        Ok(match escape {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            '"' | '\\' | '/' => escape,
            'u' => self.code_point(4)?,
            'U' => self.code_point(8)?,
            other => {
                return Err(self.error(format!("`\\{other}` is no escape; write `\\\\` for a backslash")));
            }
        })
    }

    fn code_point(&mut self, digits: usize) -> Result<char, SyntaxError> {
        let mut code = 0_u32;
        for _ in 0..digits {
            let digit = self.peek().and_then(|c| c.to_digit(16));
            let digit =
                digit.ok_or_else(|| self.error(format!("an escape needs {digits} hexadecimal digits")))?;
            self.next();
            code = code.wrapping_mul(16).wrapping_add(digit);
        }
        char::from_u32(code).ok_or_else(|| self.error("the escape is no character"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        fn value(data: &Data) -> String {
            match data {
                Data::Text(text) => format!("{text:?}"),
                Data::Number(digits) => digits.clone(),
                Data::Bool(yes) => yes.to_string(),
                Data::List(values) => {
                    let values: Vec<_> = values.iter().map(|inner| value(&inner.data)).collect();
                    format!("[{}]", values.join(" "))
                }
                Data::Object(items) => format!("{{{}}}", all(items)),
            }
        }
        fn all(items: &[Item]) -> String {
            let items: Vec<_> = items
                .iter()
                .map(|item| format!("{}@{}={}", item.key, item.line, value(&item.value.data)))
                .collect();
            items.join(" ")
        }
        match parse(text) {
            Ok(items) => all(&items),
            Err(error) => format!("line {}: {}", error.line, error.message),
        }
    }

    #[test]
    fn documents_are_read_as_hcl_reads_them() {
        for (text, wanted) in [
            ("", ""),
            ("# nothing\n// at all\n/* here\n */", ""),
            ("a = \"x\"\nb = 0644\nc = true", r#"a@1="x" b@2=0644 c@3=true"#),
            ("a = \"x\" b = -1", r#"a@1="x" b@1=-1"#),
            ("\"a\" = [1, 2,]\r\n", "a@1=[1 2]"),
            ("j {\n a = 1\n}\nj { a = 2 }", "j@1={a@2=1} j@4={a@4=2}"),
            ("j = [{a = \"1\", b = 2}, {\n a = \"3\"\n b = 4 }]", r#"j@1=[{a@1="1" b@1=2} {a@2="3" b@3=4}]"#),
            (r#"{"a": "b", "c": {"d": false}}"#, r#"a@1="b" c@1={d@1=false}"#),
            (r#"a = "q\"b\\s\nu\u00e9 ${x} \/""#, r#"a@1="q\"b\\s\nué ${x} /""#),
            ("\u{feff}a = 1", "a@1=1"),
        ] {
            assert_eq!(shown(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_hcl_is_refused_on_its_line() {
        for (text, wanted) in [
            ("a", "line 1: `=` or `{` is missing after `a`"),
            ("a = \"x\n\"", "line 1: the string has no closing `\"`"),
            ("\na = no", "line 2: `no` needs quotes"),
            ("a = [1 2]", "line 1: a `,` is missing between two values of a list"),
            ("a = [1,\n2", "line 1: the `[` has no `]`"),
            ("a {\nb = 1\n", "line 1: the `{` has no `}`"),
            ("{\"a\": 1} x", "line 1: nothing may follow the last `}`, but 'x' does"),
            ("a \"b\" {}", "line 1: `a` takes no label; write `a = ` or `a {`"),
            ("a = <<EOF\nx\nEOF", "line 1: heredocs (`<<`) are not read here; write a string in quotes"),
            ("a = /opt/x", "line 1: a single `/` has no meaning here; put text in quotes"),
            ("/* a", "line 1: the comment `/*` has no end"),
            (r#"a = "\q""#, "line 1: `\\q` is no escape; write `\\\\` for a backslash"),
            ("a = \"\\ud800\"", "line 1: the escape is no character"),
            ("= 1", "line 1: a key is wanted here, not '='"),
            ("a =", "line 1: a value is wanted here, but the file ends"),
        ] {
            assert_eq!(shown(text), wanted, "{text}");
        }
        assert!(shown(&"[".repeat(100_000).replace('[', "a={")).contains("nested too deeply"));
        assert!(shown(&format!("a = {}", "[".repeat(100_000))).contains("nested too deeply"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[ -~\n\u{e9}]{0,80}") {
            let _ = parse(&text);
        }

        #[test]
        fn no_pieces_of_hcl_make_the_parser_panic(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "a", "=", "{", "}", "[", "]", "\"", "\\", "\n", ",", ":", "0644", "/*", "*/", "//", "#", "<<", "\\u12",
                ]),
                0..40,
            )
        ) {
            let _ = parse(&pieces.concat());
        }

        #[test]
        fn any_string_survives_being_quoted(text in "[^\\x00-\\x1f]{0,40}") {
            let quoted = format!("a = \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            let items = parse(&quoted).unwrap();
            prop_assert_eq!(&items[0].value.data, &Data::Text(text));
        }
    }
}
