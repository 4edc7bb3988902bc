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
    Webhook(Box<cmd::webhook::Args>),
    Sidecar(cmd::sidecar::Args),
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
        Command::Webhook(args) => cmd::webhook::run(*args),
        Command::Sidecar(args) => cmd::sidecar::run(args),
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
    let helper = arguments
        .iter()
        .skip(1)
        .map(|word| word.to_str())
        .take(2)
        .eq([Some("sidecar"), Some("spiffe-helper")]);
    if helper {
        arguments.iter_mut().skip(3).for_each(with_two_dashes);
    }
    arguments
}

/// The published helper's flags have one dash or two, as Go's flags do.
fn with_two_dashes(word: &mut OsString) {
    const FLAGS: [&str; 4] = ["config", "daemon-mode", "help", "version"];
    let Some(flag) = word.to_str().and_then(|word| word.strip_prefix('-')) else { return };
    if FLAGS.contains(&flag.split('=').next().unwrap_or_default()) {
        *word = format!("--{flag}").into();
    }
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
    fn the_helpers_flags_may_have_one_dash() {
        let given = |line: &str| -> Vec<OsString> { line.split(' ').map(OsString::from).collect() };
        for (line, expected) in [
            ("skep sidecar spiffe-helper -config=/a run", "skep sidecar spiffe-helper --config=/a run"),
            ("skep sidecar spiffe-helper -config /a", "skep sidecar spiffe-helper --config /a"),
            (
                "skep sidecar spiffe-helper -daemon-mode=false",
                "skep sidecar spiffe-helper --daemon-mode=false",
            ),
            ("skep sidecar spiffe-helper --config /a -h", "skep sidecar spiffe-helper --config /a -h"),
            ("skep check -config", "skep check -config"),
        ] {
            assert_eq!(arguments(given(line).into_iter()), given(expected), "{line}");
        }
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
