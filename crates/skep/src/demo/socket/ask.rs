//! The side of `skep token`.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use skep_api::secret::Secret;

use super::{Answer, LINE_LIMIT, TokenRequest};

/// A local process answers at once; this long means that it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody listens.
    #[error("no `skep up` is running (nobody listens on {path}); start one with: skep up")]
    NotRunning {
        /// The socket.
        path: String,
    },
    /// The socket can't be used.
    #[error("can't talk to the running `skep up` over {path}")]
    Io {
        /// The socket.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What came back is no answer.
    #[error("what listens on {path} is not a `skep up` of this version; restart it")]
    Protocol {
        /// The socket.
        path: String,
    },
    /// The running `up` refused.
    #[error("{0}")]
    Refused(String),
}

/// Asks the `skep up` behind a socket for a token.
///
/// # Errors
/// When nobody listens, the connection breaks, or the user is unknown.
pub(crate) fn ask(socket: &Path, request: &TokenRequest) -> Result<Secret, AskError> {
    let path = || socket.display().to_string();
    let failed = |source| AskError::Io { path: path(), source };
    let stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NotRunning { path: path() },
        _ => failed(source),
    })?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut line = serde_json::to_vec(request).map_err(|_| AskError::Protocol { path: path() })?;
    line.push(b'\n');
    (&stream).write_all(&line).map_err(failed)?;

    let mut answer = Vec::new();
    let limit = u64::try_from(LINE_LIMIT).unwrap_or(u64::MAX);
    BufReader::new(stream.take(limit)).read_until(b'\n', &mut answer).map_err(failed)?;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Token { access_token, .. }) => Ok(Secret::new(access_token)),
        Ok(Answer::Refused { error }) => Err(AskError::Refused(error)),
        Err(_) => Err(AskError::Protocol { path: path() }),
    }
}
