//! Why the MCP server did not answer.

use std::error::Error;
use std::io;

use hyper_util::client::legacy::Error as ClientError;
use skep_api::report::RemoteReason;

use super::connector::ResolveError;
use crate::error::BackendFault;

/// Errors behind an error that are looked at.
const DEPTH: usize = 16;

/// What went wrong before there was an answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The URL can't stand in a request.
    Url,
    /// No connection, or no answer in HTTP.
    Client(ClientError),
}

impl Failure {
    /// The error, where there is one.
    pub(crate) fn error(&self) -> Option<&ClientError> {
        match self {
            Self::Url => None,
            Self::Client(error) => Some(error),
        }
    }

    /// What a caller is told.
    pub(crate) fn fault(&self) -> BackendFault {
        match self {
            Self::Url => BackendFault::Protocol { reason: "its URL is not a URI" },
            Self::Client(error) if error.is_connect() => BackendFault::Unreachable,
            Self::Client(_) => BackendFault::Closed,
        }
    }

    /// What the operator is told: the reason, and the innermost error's own words.
    pub(crate) fn reason(&self) -> (RemoteReason, String) {
        let Self::Client(error) = self else { return (RemoteReason::NoAnswer, String::new()) };
        let causes = causes(error);
        let detail = causes.last().map(ToString::to_string).unwrap_or_default();
        let reason = causes.iter().find_map(|cause| {
            match cause.downcast_ref::<ResolveError>() {
                Some(ResolveError::Refused(_)) => return Some(RemoteReason::AddressRefused),
                Some(ResolveError::Lookup(_)) => return Some(RemoteReason::NameNotResolved),
                None => {}
            }
            if cause.is::<rustls::Error>() {
                return Some(RemoteReason::TlsFailed);
            }
            let timed_out = cause
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
            timed_out.then_some(RemoteReason::TimedOut)
        });
        let otherwise =
            if error.is_connect() { RemoteReason::ConnectionFailed } else { RemoteReason::NoAnswer };
        (reason.unwrap_or(otherwise), detail)
    }
}

/// The error and everything behind it, the innermost last. What an [`io::Error`] was made of is not its
/// source, but it is what went wrong.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> Vec<&'e (dyn Error + 'static)> {
    let mut causes = vec![error];
    let mut next = Some(error);
    while let Some(error) = next.filter(|_| causes.len() < DEPTH) {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        };
        causes.extend(next);
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_io_error_was_made_of_is_found() {
        let tls = rustls::Error::General("inner".to_owned());
        let error = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls));
        let causes = causes(&error);
        assert_eq!(causes.len(), 3);
        assert!(causes.last().unwrap().is::<rustls::Error>());
    }
}
