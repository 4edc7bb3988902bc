//! Whoever reads the files is told that they are new.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, getpid, kill_process};
use skep_runtime::logging::chain;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::config::{CommandLine, HelperConfig, RenewSignal};

/// How long a process may take to end before it is killed.
const END: Duration = Duration::from_secs(10);
/// How often a pid file is looked at until there is a process to signal.
const PID_ATTEMPTS: u32 = 10;

/// Why nobody was told.
#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error("cannot start {}; is the program in this image?", program.display())]
    Start {
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot read the pid file {}", path.display())]
    PidFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the pid file {} holds no number of another process", path.display())]
    Pid { path: PathBuf },
    #[error("cannot send {signal} to process {process}")]
    Signal {
        signal: RenewSignal,
        process: i32,
        #[source]
        source: Errno,
    },
}

/// Tells the process of `cmd` and the one of the pid file about renewals.
#[derive(Debug)]
pub(super) struct Readers {
    command: Option<CommandLine>,
    pid_file: Option<PathBuf>,
    signal: Option<RenewSignal>,
    /// Between two looks at the pid file.
    pause: Duration,
}

impl Readers {
    /// Those that the configuration names.
    pub(super) fn new(config: &HelperConfig, pause: Duration) -> Self {
        Self {
            command: config.command.clone(),
            pid_file: config.pid_file.clone(),
            signal: config.renew_signal,
            pause,
        }
    }

    /// Works until told to stop; then ends the process that it started.
    pub(super) async fn run(self, mut renewals: watch::Receiver<u64>, stop: CancellationToken) {
        let mut child: Option<Child> = None;
        let mut attempts = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                renewed = renewals.changed() => {
                    if renewed.is_err() {
                        break;
                    }
                    if let Some(command) = &self.command {
                        self.tell_child(command, &mut child);
                    }
                    attempts = if self.pid_file.is_some() { PID_ATTEMPTS } else { 0 };
                    attempts = self.tell_pid_file(attempts);
                }
                () = tokio::time::sleep(self.pause), if attempts > 0 => {
                    attempts = self.tell_pid_file(attempts);
                }
                status = ended(&mut child) => {
                    child = None;
                    report_end(self.command.as_ref(), status);
                }
            }
        }
        if let Some(child) = child {
            end(child).await;
        }
    }

    /// Starts the process, or signals it when it runs.
    fn tell_child(&self, command: &CommandLine, child: &mut Option<Child>) {
        let told = match (child.as_mut().and_then(running), self.signal) {
            (Some(process), Some(signal)) => send(process, signal),
            (Some(_), None) => Ok(()),
            (None, _) => start(command).map(|started| *child = Some(started)),
        };
        if let Err(error) = told {
            tracing::error!(error = chain(&error), "the command was not told about new files");
        }
    }

    /// One attempt; how many are left after it.
    fn tell_pid_file(&self, attempts: u32) -> u32 {
        let (Some(path), Some(signal)) = (&self.pid_file, self.signal) else { return 0 };
        if attempts == 0 {
            return 0;
        }
        let left = attempts - 1;
        match process_of(path).and_then(|process| send(process, signal)) {
            Ok(()) => {
                tracing::info!(pid_file = %path.display(), %signal, "told the process about new files");
                0
            }
            Err(error) if left == 0 => {
                tracing::error!(
                    error = chain(&error),
                    "the process of the pid file was not told about new files"
                );
                0
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), left, "looking at the pid file again");
                left
            }
        }
    }
}

/// Resolves when the process ends; never when there is none.
async fn ended(child: &mut Option<Child>) -> std::io::Result<ExitStatus> {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

/// The process, as long as it has not ended. Until its end was seen here its number belongs to it alone.
fn running(child: &mut Child) -> Option<Pid> {
    match child.try_wait() {
        Ok(None) => child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw),
        _ => None,
    }
}

fn start(command: &CommandLine) -> Result<Child, TellError> {
    let mut process = Command::new(&command.program);
    process.args(&command.arguments).kill_on_drop(true);
    match process.spawn() {
        Ok(child) => {
            tracing::info!(program = %command.program.display(), process = child.id(), "started the command");
            Ok(child)
        }
        Err(source) => Err(TellError::Start { program: command.program.clone(), source }),
    }
}

fn send(process: Pid, signal: RenewSignal) -> Result<(), TellError> {
    let number = process.as_raw_nonzero().get();
    kill_process(process, signal.signal()).map_err(|source| TellError::Signal {
        signal,
        process: number,
        source,
    })
}

/// The process of a pid file. Zero and negative numbers mean groups of processes, and our own number is left
/// from somebody who is gone.
fn process_of(path: &Path) -> Result<Pid, TellError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| TellError::PidFile { path: path.to_owned(), source })?;
    let number = text.trim().parse::<i32>().ok().filter(|number| *number > 0);
    let process = number.and_then(Pid::from_raw).filter(|process| *process != getpid());
    process.ok_or_else(|| TellError::Pid { path: path.to_owned() })
}

fn report_end(command: Option<&CommandLine>, status: std::io::Result<ExitStatus>) {
    let program = command.map(|command| command.program.display().to_string());
    match status {
        Ok(status) => {
            tracing::warn!(program, %status, "the command ended; it is started again with the next renewal");
        }
        Err(error) => tracing::error!(program, error = %error, "cannot wait for the command"),
    }
}

/// Asks the process to end, and kills it when it doesn't.
async fn end(mut child: Child) {
    if let Some(process) = running(&mut child) {
        let _ = kill_process(process, Signal::TERM);
    }
    if tokio::time::timeout(END, child.wait()).await.is_err() {
        tracing::warn!("the command did not end within {} seconds and is killed", END.as_secs());
        let _ = child.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_names_one_other_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pid");
        assert!(matches!(process_of(&path), Err(TellError::PidFile { .. })));
        let own = std::process::id().to_string();
        for text in ["", "0", "-1", "-4711", "x", "4711 4712", "99999999999", &own] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(process_of(&path), Err(TellError::Pid { .. })), "{text}");
        }
        std::fs::write(&path, " 4711\n").unwrap();
        assert_eq!(process_of(&path).unwrap(), Pid::from_raw(4711).unwrap());
    }
}
