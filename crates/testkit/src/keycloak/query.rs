//! The query of a request.

use crate::server::Recorded;

/// Parameters in their order.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(request: &Recorded) -> Self {
        let query = request.target.split_once('?').map_or("", |(_, query)| query);
        Self(url::form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// The first value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that is a number.
    pub(super) fn number(&self, name: &str) -> Option<usize> {
        self.get(name)?.parse().ok()
    }
}
