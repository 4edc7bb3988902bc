//! Text to values. Plain scalars are resolved as kubectl's reader resolves them (`yes` is a boolean,
//! `0644` is octal), because a manifest that skep reads otherwise than the cluster is a trap.

use std::collections::BTreeMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

/// Longest text that is read, in bytes.
pub const MAX_TEXT: usize = 8 << 20;
/// Most nodes in one text, after aliases are replaced by what they stand for.
const MAX_NODES: usize = 200_000;
/// Deepest nesting.
const MAX_DEPTH: usize = 64;

/// Text that is not one or more YAML or JSON documents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct YamlError {
    /// Line, counted from 1.
    pub line: usize,
    /// Column, counted from 1.
    pub column: usize,
    /// What is wrong and what to do.
    pub message: String,
}

/// One document of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The content; an empty document is null.
    pub value: Value,
    /// Line on which the content begins.
    pub line: usize,
    /// Where each part of it stands.
    pub lines: Lines,
}

/// The line of each node of a document, by dotted path (`spec.secrets[1].key`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    by_path: BTreeMap<String, usize>,
    start: usize,
}

impl Lines {
    /// The line of a path, or of the nearest part above it that exists.
    pub fn line(&self, path: &str) -> usize {
        let mut path = path;
        loop {
            if let Some(line) = self.by_path.get(path) {
                return *line;
            }
            match path.rfind(['.', '[']).and_then(|at| path.get(..at)) {
                Some(shorter) => path = shorter,
                None => return self.start,
            }
        }
    }

    /// The part of this map below `path`, with the paths cut to begin there.
    #[must_use]
    pub fn below(&self, path: &str) -> Self {
        let start = self.line(path);
        let by_path = self
            .by_path
            .range(path.to_owned()..)
            .take_while(|(key, _)| key.starts_with(path))
            .filter_map(|(key, line)| {
                let rest = key.strip_prefix(path)?.strip_prefix('.')?;
                Some((rest.to_owned(), *line))
            })
            .collect();
        Self { by_path, start }
    }
}

/// Reads exactly one document; JSON is YAML.
///
/// # Errors
/// As [`documents`], and when there is none or more than one.
pub fn single(text: &str) -> Result<Document, YamlError> {
    let mut all = documents(text)?;
    match (all.pop(), all.pop()) {
        (Some(document), None) => Ok(document),
        (None, _) => Ok(Document { value: Value::Null, line: 1, lines: Lines::default() }),
        (Some(second), Some(_)) => Err(YamlError {
            line: second.line,
            column: 1,
            message: "a second document begins here, but there may be only one".to_owned(),
        }),
    }
}

/// Reads all documents of a text.
///
/// # Errors
/// Bad syntax, duplicate keys, keys that are not strings, unknown tags, aliases to something that is
/// not there, and texts beyond the limits of size, nesting and expansion.
pub fn documents(text: &str) -> Result<Vec<Document>, YamlError> {
    if text.len() > MAX_TEXT {
        return Err(YamlError {
            line: 1,
            column: 1,
            message: format!("the text is longer than {MAX_TEXT} bytes"),
        });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { parser: Parser::new_from_str(text), nodes: 0, anchors: BTreeMap::new() };
    let mut found = Vec::new();
    while let Some((event, _)) = reader.next()? {
        match event {
            Event::DocumentStart(..) => {
                reader.anchors.clear();
                let (node, span) = reader.expect_node()?;
                let line = span.start.line();
                let root = reader.node(node, span, 0)?;
                let mut lines = Lines { by_path: BTreeMap::new(), start: line };
                record(&root, &mut String::new(), &mut lines.by_path);
                found.push(Document { value: root.into_value(), line, lines });
            }
            Event::StreamEnd => break,
            _ => {}
        }
    }
    Ok(found)
}

/// A node with its line, so that aliases keep the place where they are used from being lost.
#[derive(Debug, Clone)]
struct Node {
    line: usize,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, usize, Node)>),
}

impl Node {
    fn into_value(self) -> Value {
        match self.content {
            Content::Scalar(value) => value,
            Content::List(items) => Value::Array(items.into_iter().map(Node::into_value).collect()),
            Content::Map(entries) => Value::Object(
                entries.into_iter().map(|(key, _, node)| (key, node.into_value())).collect::<Map<_, _>>(),
            ),
        }
    }

    fn size(&self) -> usize {
        match &self.content {
            Content::Scalar(_) => 1,
            Content::List(items) => 1 + items.iter().map(Node::size).sum::<usize>(),
            Content::Map(entries) => 1 + entries.iter().map(|(_, _, node)| node.size()).sum::<usize>(),
        }
    }

    fn depth(&self) -> usize {
        1 + match &self.content {
            Content::Scalar(_) => 0,
            Content::List(items) => items.iter().map(Node::depth).max().unwrap_or(0),
            Content::Map(entries) => entries.iter().map(|(_, _, node)| node.depth()).max().unwrap_or(0),
        }
    }
}

fn record(node: &Node, path: &mut String, lines: &mut BTreeMap<String, usize>) {
    let length = path.len();
    match &node.content {
        Content::Scalar(_) => {}
        Content::List(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                lines.insert(path.clone(), item.line);
                record(item, path, lines);
                path.truncate(length);
            }
        }
        Content::Map(entries) => {
            for (key, line, value) in entries {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                lines.insert(path.clone(), *line);
                record(value, path, lines);
                path.truncate(length);
            }
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    nodes: usize,
    anchors: BTreeMap<usize, Node>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, YamlError> {
        loop {
            match self.parser.next_event() {
                None => return Ok(None),
                // Comments come as events of their own, anywhere between two nodes.
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(found)) => return Ok(Some(found)),
                Some(Err(error)) => return Err(at(*error.marker(), error.info())),
            }
        }
    }

    fn expect_node(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        self.next()?.ok_or_else(|| YamlError {
            line: 1,
            column: 1,
            message: "the text ends too early".to_owned(),
        })
    }

    fn count(&mut self, more: usize, span: Span) -> Result<(), YamlError> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES {
            return Err(at(
                span.start,
                format!(
                    "the text stands for more than {MAX_NODES} values; are its aliases meant to multiply?"
                ),
            ));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, YamlError> {
        if depth >= MAX_DEPTH {
            return Err(at(span.start, format!("nested more than {MAX_DEPTH} levels deep")));
        }
        self.count(1, span)?;
        let line = span.start.line();
        let (anchor, content) = match event {
            Event::Alias(id) => {
                let node = self
                    .anchors
                    .get(&id)
                    .cloned()
                    .ok_or_else(|| at(span.start, "this alias stands inside what it names".to_owned()))?;
                self.count(node.size(), span)?;
                if depth + node.depth() > MAX_DEPTH {
                    return Err(at(span.start, format!("nested more than {MAX_DEPTH} levels deep")));
                }
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.map(|tag| tag.original());
                (
                    anchor,
                    Content::Scalar(
                        resolve(&text, style, tag.as_deref()).map_err(|message| at(span.start, message))?,
                    ),
                )
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_tag(tag.map(|tag| tag.original()), "!!seq", span)?;
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.expect_node()?;
                    if matches!(event, Event::SequenceEnd) {
                        break;
                    }
                    items.push(self.node(event, span, depth + 1)?);
                }
                (anchor, Content::List(items))
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_tag(tag.map(|tag| tag.original()), "!!map", span)?;
                (anchor, Content::Map(self.entries(depth)?))
            }
            _ => return Err(at(span.start, "expected a value here".to_owned())),
        };
        let node = Node { line, content };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<(String, usize, Node)>, YamlError> {
        let mut entries: Vec<(String, usize, Node)> = Vec::new();
        let mut seen = BTreeMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.expect_node()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let plain = matches!(&event, Event::Scalar(_, ScalarStyle::Plain, _, _));
            let key = self.key(event, span)?;
            let (event, value_span) = self.expect_node()?;
            let value = self.node(event, value_span, depth + 1)?;
            if plain && key == "<<" {
                merged.push((value, span));
                continue;
            }
            if let Some(first) = seen.insert(key.clone(), span.start.line()) {
                return Err(at(
                    span.start,
                    format!("the key `{key}` is here twice (first on line {first}); keep one"),
                ));
            }
            entries.push((key, span.start.line(), value));
        }
        for (value, span) in merged {
            let sources = match value.content {
                Content::List(items) => items,
                _ => vec![value],
            };
            for source in sources {
                let Content::Map(more) = source.content else {
                    return Err(at(span.start, "`<<` takes a mapping or a list of mappings".to_owned()));
                };
                for entry in more {
                    if seen.insert(entry.0.clone(), entry.1).is_none() {
                        entries.push(entry);
                    }
                }
            }
        }
        Ok(entries)
    }

    fn key(&mut self, event: Event<'a>, span: Span) -> Result<String, YamlError> {
        let node = self.node(event.clone(), span, 0)?;
        match (node.content, event) {
            (Content::Scalar(Value::String(text)), _) => Ok(text),
            (Content::Scalar(_), Event::Scalar(text, ScalarStyle::Plain, _, None)) if !text.is_empty() => {
                Ok(text.into_owned())
            }
            _ => Err(at(span.start, "a key has to be a string".to_owned())),
        }
    }
}

fn at(marker: Marker, message: String) -> YamlError {
    YamlError { line: marker.line(), column: marker.col() + 1, message }
}

fn refuse_tag(tag: Option<String>, allowed: &str, span: Span) -> Result<(), YamlError> {
    match tag {
        Some(tag) if tag != allowed => {
            Err(at(span.start, format!("the tag `{tag}` has no meaning in a manifest; remove it")))
        }
        _ => Ok(()),
    }
}

fn resolve(text: &str, style: ScalarStyle, tag: Option<&str>) -> Result<Value, String> {
    match tag {
        Some("!!str" | "!") => return Ok(Value::from(text)),
        Some("!!binary") => {
            return Err("the tag `!!binary` is not supported; write the text itself".to_owned());
        }
        Some("!!int" | "!!float" | "!!bool" | "!!null") => return plain(text),
        Some(tag) => return Err(format!("the tag `{tag}` has no meaning in a manifest; remove it")),
        None => {}
    }
    if style == ScalarStyle::Plain { plain(text) } else { Ok(Value::from(text)) }
}

fn plain(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            return Ok(Value::Bool(true));
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Ok(Value::Bool(false));
        }
        _ => {}
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1_i128, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Ok(Value::from(text));
    }
    if let Some(number) = integer(digits) {
        let number = sign * i128::from(number);
        return Ok(match i64::try_from(number) {
            Ok(number) => Value::from(number),
            Err(_) => u64::try_from(number).map_or_else(|_| Value::from(text), Value::from),
        });
    }
    match digits {
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN" => {
            return Err(format!("`{text}` has no meaning in JSON, and so none in Kubernetes"));
        }
        _ => {}
    }
    let float_like = digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'))
        && digits.chars().any(|c| c.is_ascii_digit());
    if float_like
        && let Ok(number) = text.parse::<f64>()
        && let Some(number) = Number::from_f64(number)
    {
        return Ok(Value::Number(number));
    }
    Ok(Value::from(text))
}

fn integer(digits: &str) -> Option<u64> {
    if let Some(hex) = digits.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    if let Some(octal) = digits.strip_prefix("0o") {
        return u64::from_str_radix(octal, 8).ok();
    }
    if let Some(binary) = digits.strip_prefix("0b") {
        return u64::from_str_radix(binary, 2).ok();
    }
    if !digits.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    match digits.strip_prefix('0') {
        Some(octal) if !octal.is_empty() && octal.chars().all(|c| c < '8') => {
            u64::from_str_radix(octal, 8).ok()
        }
        _ => digits.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_scalars_mean_what_kubectl_takes_them_for() {
        let value = single("[yes, off, 0644, 0o17, 0x10, 08, 1e3, ~, '1', 1.5, -3, v1, 2026-01-01, 1.2.3]")
            .unwrap()
            .value;
        assert_eq!(
            value,
            json!([true, false, 420, 15, 16, 8, 1000.0, null, "1", 1.5, -3, "v1", "2026-01-01", "1.2.3"])
        );
    }

    #[test]
    fn every_node_has_its_line() {
        let text = "# comment\nspec:\n  # about a\n  a: 1 # one\n  # about the list\n  list:\n  # first\n  - name: x\n    # its key\n    key: y\n# end\n";
        let document = single(text).unwrap();
        assert_eq!(document.line, 2);
        assert_eq!(document.lines.line("spec.a"), 4);
        assert_eq!(document.lines.line("spec.list[0].key"), 10);
        assert_eq!(document.lines.line("spec.list[0].missing.deep"), 8);
        assert_eq!(document.lines.line("status"), 2);
        assert_eq!(document.lines.below("spec").line("list[0].key"), 10);
    }

    #[test]
    fn anchors_aliases_and_merge_keys_work() {
        let value = single("a: &x {p: 1, q: 2}\nb: *x\nc:\n  <<: *x\n  q: 3\n").unwrap().value;
        assert_eq!(value, json!({"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 2}, "c": {"q": 3, "p": 1}}));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, part) in [
            ("a: 1\na: 2\n", 2, "twice"),
            ("a:\n  b: {a: 1, a: 2}\n", 2, "twice"),
            ("a: *nothing\n", 1, "unknown anchor"),
            ("a: &x [*x]\n", 1, "inside what it names"),
            ("a: !!binary aGk=\n", 1, "!!binary"),
            ("a: !Ref b\n", 1, "!Ref"),
            ("a: [1\nb: 2\n", 2, ""),
            ("a: b\n  c: d\n", 2, ""),
            ("a:\n\tb: c\n", 2, ""),
            ("{[1]: 2}\n", 1, "key has to be a string"),
            ("a: .inf\n", 1, "no meaning in JSON"),
        ] {
            let error = documents(text).unwrap_err();
            assert!(error.message.contains(part), "{text:?}: {error}");
            assert_eq!(error.line, line, "{text:?}: {error}");
        }
    }

    #[test]
    fn aliases_that_multiply_are_stopped() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let below = level - 1;
            text.push_str(&format!("a{level}: &a{level} [*a{below}, *a{below}, *a{below}, *a{below}, *a{below}, *a{below}, *a{below}, *a{below}]\n"));
        }
        assert!(documents(&text).unwrap_err().message.contains("aliases"));
    }

    #[test]
    fn nesting_is_bounded() {
        let text = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(documents(&text).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[ -~\n\t&*!<>|{}\\[\\]:#]{0,200}") {
            let _ = documents(&text);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = documents(&String::from_utf8_lossy(&bytes));
        }
    }
}
