//! The `skep` binary.

mod cmd;
mod demo;
mod local;
mod manifest;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
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
    Up(cmd::up::Args),
    Token(cmd::token::Args),
    Check(cmd::check::Args),
    Render(cmd::render::Args),
    Crds(cmd::crds::Args),
    Schema(cmd::schema::Args),
    Proxy(cmd::proxy::Args),
    Operator(Box<cmd::operator::Args>),
    Doctor(cmd::doctor::Args),
}

/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 `check` or `render` found errors.
fn main() -> ExitCode {
    // One cryptography for the whole process, before anything asks for it. A second install is harmless.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = match Cli::parse_from(arguments(std::env::args_os())).command {
        Command::Up(args) => cmd::up::run(args),
        Command::Token(args) => cmd::token::run(args),
        Command::Check(args) => cmd::check::run(args),
        Command::Render(args) => cmd::render::run(args),
        Command::Crds(args) => cmd::crds::run(args),
        Command::Schema(args) => cmd::schema::run(args),
        Command::Proxy(args) => cmd::proxy::run(args),
        Command::Operator(args) => cmd::operator::run(*args),
        Command::Doctor(args) => cmd::doctor::run(args),
    };
    result.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The link `thv-proxyrunner`, under which ToolHive's operator starts its proxies, means `skep proxy`.
fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = given.collect();
    let runner = arguments
        .first()
        .is_some_and(|program| Path::new(program).file_name().is_some_and(|name| name == "thv-proxyrunner"));
    if runner {
        arguments.insert(1, "proxy".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runners_name_means_the_proxy() {
        let given = |line: &str| -> Vec<OsString> { line.split(' ').map(OsString::from).collect() };
        let read = |line: &str| arguments(given(line).into_iter());
        assert_eq!(read("/thv-proxyrunner run image"), given("/thv-proxyrunner proxy run image"));
        assert_eq!(read("skep proxy run"), given("skep proxy run"));
    }

    #[test]
    fn the_commands_are_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_arguments_of_both_operators_are_accepted() {
        for line in [
            "/thv-proxyrunner run --foreground=true placeholder-for-remote-proxy",
            "skep proxy run --foreground=true placeholder-for-remote-proxy",
            "skep proxy run image:1",
            "/thv-proxyrunner run --foreground=true image:1",
            "/thv-proxyrunner run --k8s-pod-patch={} image:1",
            "/thv-proxyrunner run --k8s-pod-patch={} image:1 -- --flag",
            "skep proxy run",
            "skep proxy run --env-file-dir=/vault/secrets --transport stdio image",
        ] {
            let parsed = Cli::try_parse_from(arguments(line.split(' ').map(OsString::from)));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
        let unknown = Cli::try_parse_from(["skep", "proxy", "run", "--frobnicate"]);
        assert!(unknown.is_err());
    }
}
