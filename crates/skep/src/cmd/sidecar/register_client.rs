//! `skep sidecar register-client`: the pod's identity becomes a client of Keycloak.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use skep_runtime::clock::SystemClock;
use skep_runtime::drain::{Drain, Phase};
use skep_runtime::health::Readiness;
use skep_runtime::http::bind;
use skep_runtime::rng::SystemRng;
use skep_sidecar::register::{self, Parts, Settings};
use tokio::net::TcpListener;

use crate::cmd::values::{Maybe, bind_address, switch};
use crate::local::signals::Signals;

/// How long a process stays that does not know what to do.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Registers the subject of this pod's JWT-SVID as a client of Keycloak, and keeps its credentials in files.
///
/// Takes the environment of the published client-registration image: KEYCLOAK_URL, KEYCLOAK_REALM, CLIENT_NAME,
/// KEYCLOAK_ADMIN_USERNAME, KEYCLOAK_ADMIN_PASSWORD, SECRET_FILE_PATH and the others of docs/webhook.md. It writes
/// client-id.txt, client-secret.txt and secret.txt, and looks after the client for as long as it runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where /healthz, /readyz and /startupz are served, instead of HEALTH_ADDRESS; 0 serves none.
    #[arg(long, value_name = "ADDRESS", value_parser = bind_address)]
    health_address: Option<Maybe<SocketAddr>>,
    /// Remove the client at the end, instead of DEREGISTER_ON_EXIT. Unless told, only a client is removed that was
    /// registered with an initial access token: nobody could take it over.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    deregister_on_exit: Option<Maybe<bool>>,
    /// Log more (TOOLHIVE_DEBUG does the same).
    #[arg(long)]
    debug: bool,
}

/// Runs until it is told to stop. With an environment that can't be used it says why and stays for a while, and
/// fails then.
///
/// # Errors
/// When the port is taken that was given on the command line.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    skep_runtime::logging::init(args.debug);
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let (by_hand, given) = match args.health_address {
        Some(address) => (true, address.get()),
        None => (false, Settings::health_address(&environment)),
    };
    let removal = args.deregister_on_exit.and_then(Maybe::get);
    let settings = Settings::from_env(&environment).map(|mut settings| {
        settings.health_address = given;
        settings.deregister_on_exit = removal.or(settings.deregister_on_exit);
        settings
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let drain = Drain::new();
        let parts = Parts {
            clock: SystemClock::shared(),
            rng: SystemRng::shared(),
            readiness: Readiness::new(),
            listener: given.map(|address| listen(address, by_hand)).transpose()?.flatten(),
        };
        let settings = match settings {
            Ok(settings) => settings,
            Err(error) => {
                let in_vain = register::idle(&error, parts, drain.watch(), PATIENCE);
                return Ok(tokio::select! {
                    () = signals.stop() => ExitCode::SUCCESS,
                    _ = in_vain => ExitCode::FAILURE,
                });
            }
        };
        let grace = settings.grace();
        let mut work = tokio::spawn(register::run(settings, parts, drain.watch()));
        tokio::select! {
            () = signals.stop() => {}
            ended = &mut work => {
                ended.context("the registration broke")?;
                return Ok(ExitCode::SUCCESS);
            }
        }
        drain.advance(Phase::Draining);
        tokio::select! {
            _ = tokio::time::timeout(grace, &mut work) => {}
            () = signals.stop() => tracing::warn!("a second signal: ended without waiting"),
        }
        drain.advance(Phase::Stopped);
        Ok(ExitCode::SUCCESS)
    })
}

/// Listens; where there is no IPv6, `[::]` means all IPv4 addresses. A port that is taken ends nothing that works
/// without it, unless somebody asked for this very port: in a pod the server may have it.
fn listen(address: SocketAddr, by_hand: bool) -> anyhow::Result<Option<TcpListener>> {
    match bind(address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if !by_hand => {
            tracing::warn!(
                %error,
                "cannot listen on {address}, so nobody can ask for health; set HEALTH_ADDRESS to another address"
            );
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {address} for health")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_ends_only_what_was_told_to_use_it() {
        let taken = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.local_addr().unwrap();
        assert!(listen(address, false).unwrap().is_none());
        assert!(listen(address, true).unwrap_err().to_string().contains(&address.to_string()));
        assert!(listen("[::]:0".parse().unwrap(), false).unwrap().is_some());
    }
}
