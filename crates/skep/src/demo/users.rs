//! The people of the demo.

use serde::Deserialize;
use skep_authserver::User;

/// The file that is built into the binary.
const QUICKSTART: &str = include_str!("../../../../examples/quickstart/users.yaml");

/// The users that tokens can be had for.
#[derive(Debug, Clone, Default)]
pub(crate) struct DemoUsers {
    users: Vec<DemoUser>,
}

/// One user.
#[derive(Debug, Clone)]
pub(crate) struct DemoUser {
    /// What the user is called on the command line.
    pub(crate) login: String,
    /// What tokens say about the user.
    pub(crate) user: User,
    /// The scopes of the user's tokens.
    pub(crate) scopes: Vec<String>,
}

/// Why a file of users is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsersError {
    /// It is no YAML or JSON of the right shape.
    #[error("the file of demo users can't be read")]
    Syntax(#[source] Box<serde_saphyr::Error>),
    /// A user has no name, or two have the same.
    #[error("users[{index}].{field}: {problem}")]
    Invalid {
        /// Which user, counted from 0.
        index: usize,
        /// Which field.
        field: &'static str,
        /// What is wrong and what to do.
        problem: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUsers {
    users: Vec<RawUser>,
}

/// A user as the file has them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawUser {
    /// What the user is called on the command line.
    name: String,
    /// `sub` of the user's tokens. Default: the name.
    subject: Option<String>,
    /// `name` of the user's tokens.
    display_name: Option<String>,
    email: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    /// Default: openid.
    scopes: Option<Vec<String>>,
}

impl DemoUsers {
    /// The users of the built-in demo.
    ///
    /// # Errors
    /// Never in a binary that was tested.
    pub(crate) fn of_quickstart() -> Result<Self, UsersError> {
        Self::parse(QUICKSTART)
    }

    /// Reads a file of users, in YAML or JSON.
    ///
    /// # Errors
    /// When it has another shape, or a user has no name of their own.
    pub(crate) fn parse(text: &str) -> Result<Self, UsersError> {
        let raw: RawUsers =
            serde_saphyr::from_str(text).map_err(|error| UsersError::Syntax(Box::new(error)))?;
        let mut users: Vec<DemoUser> = Vec::new();
        for (index, user) in raw.users.into_iter().enumerate() {
            let invalid = |field, problem| UsersError::Invalid { index, field, problem };
            if user.name.is_empty() || user.name.contains(char::is_whitespace) {
                return Err(invalid("name", "must be a word to use on the command line"));
            }
            if users.iter().any(|known| known.login == user.name) {
                return Err(invalid("name", "another user has this name"));
            }
            let subject = user.subject.unwrap_or_else(|| user.name.clone());
            if subject.is_empty() || users.iter().any(|known| known.user.subject == subject) {
                return Err(invalid("subject", "must be the user's own and not empty"));
            }
            users.push(DemoUser {
                user: User {
                    subject,
                    name: user.display_name.or_else(|| Some(user.name.clone())),
                    email: user.email,
                    groups: user.groups,
                    extra: serde_json::Map::new(),
                },
                login: user.name,
                scopes: user.scopes.unwrap_or_else(|| vec!["openid".to_owned()]),
            });
        }
        Ok(Self { users })
    }

    /// The user of this name.
    pub(crate) fn get(&self, login: &str) -> Option<&DemoUser> {
        self.users.iter().find(|user| user.login == login)
    }

    /// All names, in the order of the file.
    pub(crate) fn logins(&self) -> Vec<&str> {
        self.users.iter().map(|user| user.login.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn the_quickstart_has_alice_who_may_more_and_bob_who_may_less() {
        let users = DemoUsers::of_quickstart().unwrap();
        assert_eq!(users.logins(), ["alice", "bob"]);
        let groups = |login| users.get(login).unwrap().user.groups.clone();
        assert!(groups("alice").contains(&"admins".to_owned()));
        assert!(!groups("bob").contains(&"admins".to_owned()));
        assert!(users.get("carol").is_none());
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let users = DemoUsers::parse(
            "users: [{name: ann}, {name: ben, subject: u-2, displayName: Ben B, scopes: []}]",
        )
        .unwrap();
        let ann = users.get("ann").unwrap();
        assert_eq!((ann.user.subject.as_str(), ann.user.name.as_deref()), ("ann", Some("ann")));
        assert_eq!(ann.scopes, ["openid"]);
        let ben = users.get("ben").unwrap();
        assert_eq!((ben.user.subject.as_str(), ben.user.name.as_deref()), ("u-2", Some("Ben B")));
        assert!(ben.scopes.is_empty());
    }

    #[test]
    fn a_bad_file_is_refused_with_the_place() {
        let table = [
            ("users: [{name: ''}]", "users[0].name: must be a word to use on the command line"),
            ("users: [{name: a b}]", "users[0].name: must be a word to use on the command line"),
            ("users: [{name: a}, {name: a}]", "users[1].name: another user has this name"),
            (
                "users: [{name: a}, {name: b, subject: a}]",
                "users[1].subject: must be the user's own and not empty",
            ),
        ];
        for (text, problem) in table {
            assert_eq!(DemoUsers::parse(text).unwrap_err().to_string(), problem);
        }
        let unknown = DemoUsers::parse("users: [{name: a, password: x}]").unwrap_err();
        assert!(unknown.source().unwrap().to_string().contains("unknown field `password`"));
    }
}
