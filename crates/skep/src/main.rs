//! The `skep` binary.

mod cmd;
mod manifest;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// One guarded entrance for MCP servers.
#[derive(Debug, Parser)]
#[command(name = "skep", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(cmd::check::Args),
    Render(cmd::render::Args),
    Crds(cmd::crds::Args),
    Schema(cmd::schema::Args),
}

/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 `check` or `render` found errors.
fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Check(args) => cmd::check::run(args),
        Command::Render(args) => cmd::render::run(args),
        Command::Crds(args) => cmd::crds::run(args),
        Command::Schema(args) => cmd::schema::run(args),
    };
    result.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
        ExitCode::FAILURE
    })
}
