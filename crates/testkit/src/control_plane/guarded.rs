//! Programs that end when the process that started them ends, however it does.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Runs a program, says its process id, and kills it when its own input ends: we hold the other end of that
/// pipe, and the kernel closes it when we are gone. Ends when the program does.
///
/// `$0` is the log, the arguments are the program and its own.
const GUARD: &str = r#"
exec 3<&0
"$@" </dev/null >>"$0" 2>&1 3<&- &
program=$!
echo "$program"
{ read -r _ <&3; kill -KILL "$program"; } >/dev/null 2>&1 &
watch=$!
exec 3<&- >/dev/null 2>&1
wait "$program"
kill "$watch"
"#;
/// How many lines of a log an error shows.
const SHOWN_LINES: usize = 25;

/// A program under guard. Dropping this kills it and waits until it is gone.
pub(super) struct Guarded {
    guard: Child,
    pid: u32,
}

impl Guarded {
    /// Starts a program that adds its output to a log. It gets nothing of our environment, so that no proxy
    /// and no cluster of the machine is its business.
    pub(super) fn start(program: &Path, arguments: &[String], log: &Path) -> Self {
        let mut guard = Command::new("sh")
            .args(["-c", GUARD])
            .arg(log)
            .arg(program)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", log.parent().unwrap_or(Path::new("/")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A group of its own: what a terminal or a time limit sends to ours reaches it through the pipe.
            .process_group(0)
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        let said = BufReader::new(guard.stdout.take().expect("a pipe")).read_line(&mut line);
        let pid = line.trim().parse().ok();
        Self { guard, pid: pid.unwrap_or_else(|| panic!("no process id from the shell: {said:?} {line:?}")) }
    }

    /// The process id of the program.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the program has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.guard.try_wait(), Ok(None))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// A log as far as it is written.
pub(super) fn whole_log(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The end of a log, for people.
pub(super) fn last_lines(path: &Path) -> String {
    let text = whole_log(path);
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    format!("the last lines of {}:\n{}", name.display(), shown.join("\n"))
}
