//! `skep up`: manifests put to work on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::local::{Options, up};

/// Runs manifests on this machine, with no cluster.
///
/// Every MCPRemoteProxy becomes a proxy on 127.0.0.1, on the port that its manifest names or, when that is
/// taken, on a free one. A file that changes is taken at once without dropping a connection; one with errors
/// is refused and the last good version stays. Audit records are printed on standard output, everything else
/// on standard error. Ctrl-C finishes running calls; a second one ends at once.
///
/// Without -f it runs a demo: an identity provider with the users alice and bob, an MCP server, and a proxy
/// with policies in front of it. `skep token --user alice` gets a token.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File or folder with manifests (also Secrets and ConfigMaps), or `-` for standard input. May be given
    /// more than once.
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Write this file once everything is ready: JSON with the issuer, and kind, name and URL of every object.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Where `skep token` finds the demo (default: a folder of this user's own).
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Run the demo's identity provider (127.0.0.1:7500) and MCP server (127.0.0.1:7501) beside the manifests
    /// of -f. Without -f they always run.
    #[arg(long)]
    demo: bool,
    /// Refuse servers that have no authentication.
    #[arg(long)]
    require_auth: bool,
    /// Log more.
    #[arg(long)]
    debug: bool,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When the manifests have errors or can't be run.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    skep_runtime::logging::init(args.debug);
    let options = Options {
        paths: args.paths,
        ready_file: args.ready_file,
        socket: args.socket,
        demo: args.demo,
        require_auth: args.require_auth,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(up(options))?;
    // A second Ctrl-C must not wait for what it cut off.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}
