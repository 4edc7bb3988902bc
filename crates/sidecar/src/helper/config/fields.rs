//! Keys of one object, with their types.

use super::PLACES;
use super::error::{Advice, ConfigError, ConfigProblem};
use super::hcl::{Data, Item, Value};
use super::mode::FileMode;

/// From here on two names count as alike.
const ALIKE: f64 = 0.87;

/// A place where keys may stand, and which.
#[derive(Debug)]
pub(super) struct Place {
    /// For messages, `of ...`.
    pub(super) name: &'static str,
    pub(super) keys: &'static [&'static str],
    /// Keys that may stand several times, as blocks.
    pub(super) repeated: &'static [&'static str],
}

/// The keys of the document or of one object in it, each known and there once.
pub(super) struct Fields<'a> {
    file: &'a str,
    items: &'a [Item],
}

impl<'a> Fields<'a> {
    /// Looks at all keys of an object.
    ///
    /// # Errors
    /// On an unknown key, and on one that stands twice and may not.
    pub(super) fn new(file: &'a str, items: &'a [Item], place: &'static Place) -> Result<Self, ConfigError> {
        for (position, item) in items.iter().enumerate() {
            let key = item.key.as_str();
            if !place.keys.contains(&key) {
                let advice = advice(key, place);
                let problem = ConfigProblem::UnknownKey { key: key.to_owned(), place: place.name, advice };
                return Err(at(file, item.line, problem));
            }
            let may_repeat = place.repeated.contains(&key) && matches!(item.value.data, Data::Object(_));
            let before = items.iter().take(position).find(|before| before.key == key && !may_repeat);
            if let Some(before) = before {
                let problem = ConfigProblem::Duplicate { key: key.to_owned(), first: before.line };
                return Err(at(file, item.line, problem));
            }
        }
        Ok(Self { file, items })
    }

    /// The keys of an object within this one.
    pub(super) fn inner<'b>(
        &'b self,
        items: &'b [Item],
        place: &'static Place,
    ) -> Result<Fields<'b>, ConfigError> {
        Fields::new(self.file, items, place)
    }

    /// An error on this line.
    pub(super) fn error(&self, line: usize, problem: ConfigProblem) -> ConfigError {
        at(self.file, line, problem)
    }

    /// Where a key stands.
    pub(super) fn line(&self, key: &str) -> Option<usize> {
        self.all(key).next().map(|item| item.line)
    }

    /// Every item of this key.
    pub(super) fn all(&self, key: &str) -> impl Iterator<Item = &'a Item> {
        self.items.iter().filter(move |item| item.key == key)
    }

    /// A string that says something; an empty one counts as not given.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        let Some(item) = self.all(key).next() else { return Ok(None) };
        let text = self.text_of(key, &item.value)?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    pub(super) fn text_of(&self, key: &str, value: &'a Value) -> Result<&'a str, ConfigError> {
        match &value.data {
            Data::Text(text) if text.contains('\0') => {
                Err(self.value(value.line, key, "given", "it has a zero byte"))
            }
            Data::Text(text) => Ok(text),
            other => Err(self.mistyped(value.line, key, "a string", other)),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        let Some(item) = self.all(key).next() else { return Ok(None) };
        match &item.value.data {
            Data::Bool(yes) => Ok(Some(*yes)),
            other => Err(self.mistyped(item.line, key, "true or false", other)),
        }
    }

    pub(super) fn port(&self, key: &str) -> Result<Option<u16>, ConfigError> {
        let Some(item) = self.all(key).next() else { return Ok(None) };
        match &item.value.data {
            Data::Number(digits) => match digits.parse::<u16>() {
                Ok(port) => Ok(Some(port)),
                Err(_) => Err(self.value(item.line, key, digits, "a port is a number from 0 to 65535")),
            },
            other => Err(self.mistyped(item.line, key, "a number", other)),
        }
    }

    /// A mode; zero counts as not given.
    pub(super) fn mode(&self, key: &str) -> Result<Option<FileMode>, ConfigError> {
        let Some(item) = self.all(key).next() else { return Ok(None) };
        match FileMode::read(&item.value.data) {
            Some(Ok(mode)) => Ok(mode),
            Some(Err(problem)) => {
                let given = match &item.value.data {
                    Data::Text(given) | Data::Number(given) => given,
                    _ => "given",
                };
                Err(self.value(item.line, key, given, &problem))
            }
            None => Err(self.mistyped(item.line, key, "a file mode such as 0644", &item.value.data)),
        }
    }

    /// A list of strings, or one string.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        let Some(item) = self.all(key).next() else { return Ok(Vec::new()) };
        match &item.value.data {
            Data::List(values) => {
                let texts = values.iter().map(|value| match &value.data {
                    Data::Text(_) => self.text_of(key, value).map(str::to_owned),
                    other => Err(self.mistyped(value.line, key, "a list of strings", other)),
                });
                texts.collect()
            }
            Data::Text(text) => Ok(vec![text.clone()]),
            other => Err(self.mistyped(item.line, key, "a list of strings", other)),
        }
    }

    pub(super) fn mistyped(&self, line: usize, key: &str, wanted: &'static str, found: &Data) -> ConfigError {
        self.error(line, ConfigProblem::Type { key: key.to_owned(), wanted, found: found.name() })
    }

    pub(super) fn value(&self, line: usize, key: &str, value: &str, problem: &str) -> ConfigError {
        let problem = ConfigProblem::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            problem: problem.to_owned(),
        };
        self.error(line, problem)
    }
}

fn at(file: &str, line: usize, problem: ConfigProblem) -> ConfigError {
    ConfigError { file: file.to_owned(), line: Some(line), problem }
}

/// What was probably meant: this key in another place; the same letters in another spelling (`agentAddress`);
/// or nearly the same.
fn advice(key: &str, place: &Place) -> Option<Advice> {
    if let Some(other) = PLACES.iter().find(|other| other.keys.contains(&key)) {
        return Some(Advice::Elsewhere(other.name));
    }
    let bare = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    let wanted = bare(key);
    if let Some(same) = place.keys.iter().find(|name| bare(name) == wanted) {
        return Some(Advice::Near(same));
    }
    let scored = place.keys.iter().map(|name| (strsim::jaro_winkler(&bare(name), &wanted), *name));
    let best = scored.filter(|(score, _)| *score >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, name)| Advice::Near(name))
}
