//! The side of `skep up`.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skep_authserver::{AuthServer, UserGrant};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Answer, LINE_LIMIT, TokenRequest, own_uid, owner_only};
use crate::demo::users::DemoUsers;

/// The client that demo tokens name (RFC 9068 wants one).
const CLIENT_ID: &str = "skep-token";

/// Long enough for an afternoon with the demo.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// How long a connection may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many connections are served at once.
const CONNECTIONS: usize = 16;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// Another process has it.
    #[error("another `skep up` is running (it holds {path}); stop it, or give this one its own --socket")]
    Taken {
        /// The socket.
        path: String,
    },
    /// Something is in the way.
    #[error("{path} exists and is not a socket; remove it, or name another place with --socket")]
    NotASocket {
        /// The path.
        path: String,
    },
    /// The system refused.
    #[error("can't listen on {path}")]
    Io {
        /// The socket.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A socket that this process alone owns. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct TokenSocket {
    path: PathBuf,
    listener: UnixListener,
    /// Held for as long as the socket is: the lock, not the socket file, says that we are alive.
    _lock: File,
}

impl Drop for TokenSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl TokenSocket {
    /// Takes a place. The socket of a process that died is replaced. The folder must be there.
    ///
    /// # Errors
    /// When another process holds the place, something else is there, or the system refuses.
    pub(crate) fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Io { path: path.display().to_string(), source };
        let lock = lock(path)?;
        // We hold the lock, so what is left of a socket belongs to nobody.
        match path.symlink_metadata() {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path).map_err(failed)?,
            Ok(_) => return Err(ListenError::NotASocket { path: path.display().to_string() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        // Until this line the folder's mode keeps others out, and after it the socket's; the check of the
        // peer's user id stands behind both.
        fs::set_permissions(path, owner_only()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), listener, _lock: lock })
    }

    /// Answers until `shutdown`. Tokens are for `default_audience` where none is asked for.
    pub(crate) async fn serve(
        self,
        server: Arc<AuthServer>,
        users: DemoUsers,
        default_audience: String,
        shutdown: CancellationToken,
    ) {
        let desk = Arc::new(Desk { server, users, default_audience });
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let slot = tokio::select! {
                () = shutdown.cancelled() => return,
                slot = Arc::clone(&slots).acquire_owned() => slot,
            };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let desk = Arc::clone(&desk);
                    tokio::spawn(async move {
                        let _slot = slot;
                        // A client that goes away or never asks is its own problem.
                        let _ = tokio::time::timeout(PATIENCE, desk.serve(stream)).await;
                    });
                }
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "the token socket could not accept");
                    // Out of descriptors, most likely: trying at once would spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

fn lock(path: &Path) -> Result<File, ListenError> {
    let name = || path.display().to_string();
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    let lock = PathBuf::from(lock);
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock);
    let file = file.map_err(|source| ListenError::Io { path: lock.display().to_string(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ListenError::Taken { path: name() }),
        Err(TryLockError::Error(source)) => Err(ListenError::Io { path: name(), source }),
    }
}

struct Desk {
    server: Arc<AuthServer>,
    users: DemoUsers,
    default_audience: String,
}

impl Desk {
    async fn serve(&self, mut stream: UnixStream) -> io::Result<()> {
        let peer = stream.peer_cred()?.uid();
        let mut line = Vec::new();
        let (reader, _) = stream.split();
        let limit = u64::try_from(LINE_LIMIT).unwrap_or(u64::MAX);
        BufReader::new(reader.take(limit)).read_until(b'\n', &mut line).await?;
        let mut answer = serde_json::to_vec(&self.answer_peer(peer, &line))?;
        answer.push(b'\n');
        stream.write_all(&answer).await?;
        stream.shutdown().await
    }

    fn answer_peer(&self, uid: u32, line: &[u8]) -> Answer {
        if uid == own_uid() {
            self.answer(line)
        } else {
            warn!(uid, "another user asked for a demo token");
            Answer::Refused { error: "this `skep up` belongs to another user".to_owned() }
        }
    }

    fn answer(&self, line: &[u8]) -> Answer {
        let refused = |error: String| Answer::Refused { error };
        let Ok(request) = serde_json::from_slice::<TokenRequest>(line) else {
            return refused("the request is not one line of JSON with user and audience".to_owned());
        };
        let Some(demo) = self.users.get(&request.user) else {
            let known = self.users.logins().join(", ");
            return refused(format!(
                "there is no user {:?} in this demo; its users are: {known}",
                request.user
            ));
        };
        let audience = request.audience.as_deref().unwrap_or(&self.default_audience);
        if audience.is_empty() || audience.contains(char::is_whitespace) {
            return refused("the audience must be one word, most often a URL".to_owned());
        }
        let grant = UserGrant {
            user: &demo.user,
            client_id: CLIENT_ID,
            audience,
            scopes: &demo.scopes,
            lifetime: TOKEN_LIFETIME,
        };
        match self.server.issue_for_user(&grant) {
            Ok(token) => {
                info!(user = demo.login, audience, "demo token issued");
                Answer::Token {
                    access_token: token.access_token.expose().to_owned(),
                    expires_in: token.expires_in.as_secs(),
                }
            }
            Err(error) => refused(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, Write as _};
    use std::os::unix::fs::MetadataExt as _;

    use serde_json::{Value, json};
    use skep_authserver::{Config, Issuer};
    use skep_testkit::{ManualClock, SeededRng};

    use super::super::ask::AskError;
    use super::super::{ask, make_folder};
    use super::*;

    fn desk() -> Desk {
        let config = Config::new(Issuer::parse("http://127.0.0.1:7500").unwrap());
        let clock = Arc::new(ManualClock::default());
        Desk {
            server: AuthServer::new(config, clock, Arc::new(SeededRng::new(1))).unwrap(),
            users: DemoUsers::of_quickstart().unwrap(),
            default_audience: "https://mcp.example".to_owned(),
        }
    }

    struct Running {
        folder: tempfile::TempDir,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Running {
        async fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("skep/token.sock");
            make_folder(&path).unwrap();
            let (stop, socket) = (CancellationToken::new(), TokenSocket::bind(&path).unwrap());
            let desk = desk();
            let serving = socket.serve(desk.server, desk.users, desk.default_audience, stop.clone());
            Self { folder, stop, task: tokio::spawn(serving) }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("skep/token.sock")
        }

        async fn ask(&self, user: &str, audience: Option<&str>) -> Result<Value, AskError> {
            let request = TokenRequest { user: user.to_owned(), audience: audience.map(str::to_owned) };
            let path = self.path();
            let token = tokio::task::spawn_blocking(move || ask(&path, &request)).await.unwrap()?;
            Ok(jsonwebtoken::dangerous::insecure_decode_claims(token.expose()).unwrap())
        }

        /// Sends a line as it is and returns the answer.
        async fn raw(&self, line: &'static [u8]) -> Value {
            let path = self.path();
            let answer = tokio::task::spawn_blocking(move || {
                let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
                stream.write_all(line).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let mut answer = String::new();
                std::io::BufReader::new(stream).read_line(&mut answer).unwrap();
                answer
            });
            serde_json::from_str(&answer.await.unwrap()).unwrap()
        }
    }

    #[tokio::test]
    async fn a_user_of_the_demo_gets_a_token() {
        let running = Running::start().await;
        let claims = running.ask("alice", None).await.unwrap();
        assert_eq!(claims["sub"], "alice");
        assert_eq!(claims["aud"], "https://mcp.example");
        assert_eq!(claims["iss"], "http://127.0.0.1:7500");
        assert!(claims["groups"].as_array().unwrap().contains(&json!("admins")));
        let claims = running.ask("bob", Some("https://other.example")).await.unwrap();
        assert_eq!(claims["aud"], "https://other.example");
        let answer = running.raw(b"{\"user\":\"bob\"}\n").await;
        assert_eq!(answer["expires_in"], 3600);
        assert!(answer["access_token"].is_string());
    }

    #[tokio::test]
    async fn an_unknown_user_is_refused_and_the_known_are_named() {
        let running = Running::start().await;
        let refused = running.ask("carol", None).await.unwrap_err().to_string();
        assert_eq!(refused, "there is no user \"carol\" in this demo; its users are: alice, bob");
        let refused = running.ask("alice", Some("")).await.unwrap_err().to_string();
        assert_eq!(refused, "the audience must be one word, most often a URL");
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused() {
        let running = Running::start().await;
        for line in [
            &b"\n"[..],
            b"",
            b"alice\n",
            b"[]\n",
            b"{}\n",
            b"{\"user\":1}\n",
            b"{\"user\":\"alice\",\"sub\":\"root\"}\n",
            b"\xff\n",
        ] {
            let answer = running.raw(line).await;
            assert!(answer["error"].is_string(), "{}: {answer}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn a_process_of_another_user_is_refused() {
        let line = br#"{"user":"alice"}"#;
        let desk = desk();
        assert!(matches!(desk.answer_peer(own_uid(), line), Answer::Token { .. }));
        assert!(matches!(desk.answer_peer(own_uid() + 1, line), Answer::Refused { .. }));
    }

    #[tokio::test]
    async fn only_the_owner_can_open_the_socket() {
        let running = Running::start().await;
        assert_eq!(running.path().metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(running.path().parent().unwrap().metadata().unwrap().mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn a_second_up_is_told_that_the_first_runs() {
        let running = Running::start().await;
        let refused = TokenSocket::bind(&running.path()).unwrap_err();
        assert!(refused.to_string().starts_with("another `skep up` is running"), "{refused}");
        running.ask("alice", None).await.expect("the first one is not disturbed");
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_process_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dead process leaves its socket behind");
        let refused = ask(&path, &TokenRequest { user: "alice".to_owned(), audience: None });
        assert!(matches!(refused, Err(AskError::NotRunning { .. })));
        TokenSocket::bind(&path).unwrap();
    }

    #[tokio::test]
    async fn something_else_in_its_place_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(TokenSocket::bind(&path), Err(ListenError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn after_the_end_nothing_is_left_and_the_next_can_start() {
        let mut running = Running::start().await;
        running.stop.cancel();
        (&mut running.task).await.unwrap();
        assert!(!running.path().exists());
        assert!(matches!(running.ask("alice", None).await, Err(AskError::NotRunning { .. })));
        TokenSocket::bind(&running.path()).unwrap();
    }
}
