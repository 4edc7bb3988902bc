//! `skep token`: a demo token from a running `skep up`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::demo::socket::{TokenRequest, ask, check_folder, default_path};

/// Prints a token for a user of the demo, made by the `skep up` that runs on this machine.
///
/// There is no password: whoever can read the files of the user who started `skep up` can have a token.
/// No network listener gives these tokens out.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A user of the demo (examples/quickstart/users.yaml: alice may everything, bob less).
    #[arg(long, value_name = "NAME")]
    pub(crate) user: String,
    /// Who the token is for. Default: the demo's proxy, which exchanges it for one that the server takes.
    #[arg(long, value_name = "AUDIENCE")]
    pub(crate) audience: Option<String>,
    /// The socket of the running `skep up`, where it was started with --socket.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

/// Prints the token, and nothing else, on standard output.
///
/// # Errors
/// When no `skep up` runs or the user is unknown.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let socket = match args.socket {
        Some(path) => path,
        None => {
            let path = default_path(std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).as_deref());
            // A folder that is not there means that no `skep up` runs, which `ask` says better.
            if path.parent().is_some_and(|folder| folder.symlink_metadata().is_ok()) {
                check_folder(&path)?;
            }
            path
        }
    };
    let token = ask(&socket, &TokenRequest { user: args.user, audience: args.audience })?;
    writeln!(std::io::stdout().lock(), "{}", token.expose()).context("can't write the token")?;
    Ok(ExitCode::SUCCESS)
}
