//! A registration that does not know what to do.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use skep_runtime::drain::{DrainWatch, Phase};
use skep_runtime::logging::chain;

use super::health::{self, Startup};
use super::{Parts, SettingsError};

/// Says what is missing or wrong, in the log and by readiness, and waits for as long as `patience`: a container
/// that ends at once is started again and again, and takes its pod out of every Service meanwhile. True when the
/// time is over: variables are read when a container starts, so it is to start again. False when it was told to
/// stop.
pub async fn idle(error: &SettingsError, parts: Parts, mut stop: DrainWatch, patience: Duration) -> bool {
    let text = chain(error);
    tracing::error!(
        error = %text,
        "nothing is registered; this process ends in {} s, to be started again with what is set by then",
        patience.as_secs()
    );
    parts.readiness.not_ready("settings", text.clone());
    let startup = Startup::new(parts.clock);
    startup.end();
    let health = parts.listener.map(|listener| {
        let status = Arc::new(move || json!({"problem": {"kind": "settings", "message": text}}));
        health::listen(listener, startup, parts.readiness, status, stop.clone())
    });
    let over = tokio::select! {
        () = stop.reached(Phase::Draining) => false,
        () = tokio::time::sleep(patience) => true,
    };
    if let Some(health) = health {
        health.abort();
    }
    over
}
