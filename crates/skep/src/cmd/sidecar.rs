//! `skep sidecar`: the two sidecars of an MCP server's pod.

mod register_client;
mod spiffe_helper;

use std::process::ExitCode;

use clap::Subcommand;

/// Runs a sidecar of an MCP server's pod; the webhook injects them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    sidecar: Sidecar,
}

#[derive(Debug, Subcommand)]
enum Sidecar {
    SpiffeHelper(spiffe_helper::Args),
    RegisterClient(Box<register_client::Args>),
}

/// Runs one of them.
///
/// # Errors
/// When its settings can't be used, or it can't go on.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.sidecar {
        Sidecar::SpiffeHelper(args) => spiffe_helper::run(args),
        Sidecar::RegisterClient(args) => register_client::run(*args),
    }
}
