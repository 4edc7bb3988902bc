//! The X.509-SVID, its key and its bundle.

use std::sync::Arc;

use skep_auth::spiffe::{Event, X509Context};
use tokio::time::{Instant, sleep_until};

use super::{Keeper, Work, store};
use crate::helper::config::X509Outputs;
use crate::helper::error::{Failure, HelperError};
use crate::helper::render::{self, Validity};
use crate::helper::status::Output;

/// Writes the SVID whenever the agent sends one.
///
/// # Errors
/// When the agent refuses the call as such; where the work is to be done once, also when what it sent can't
/// be written.
pub(super) async fn keep(work: Arc<Work>, targets: X509Outputs) -> Result<(), HelperError> {
    let mut updates = work.api.watch_x509(work.retry, Arc::clone(&work.clock), Arc::clone(&work.rng));
    let mut keeper = Keeper::new(Arc::clone(&work), Output::X509, &targets.certificate);
    // What came and could not be written, and when to try again.
    let mut pending: Option<(X509Context, Instant)> = None;
    loop {
        let again = pending.as_ref().map(|(_, again)| *again);
        let context = tokio::select! {
            event = updates.next() => match event {
                Ok(Event::Update(context)) => context,
                Ok(Event::Trouble { error, pause }) => {
                    keeper.failed(&error.into(), pause);
                    continue;
                }
                Err(error) => return Err(keeper.fatal(error)),
            },
            () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => match pending.take() {
                Some((context, _)) => context,
                None => continue,
            },
        };
        match write(&work, &targets, &context).await {
            Ok((changed, validity)) => {
                pending = None;
                keeper.written(changed, Some(validity));
                if work.once {
                    return Ok(());
                }
            }
            Err(failure) if work.once => return Err(keeper.fatal(failure)),
            Err(failure) => {
                let pause = keeper.backoff.pause();
                keeper.failed(&failure, pause);
                pending = Some((context, Instant::now() + pause));
            }
        }
    }
}

async fn write(
    work: &Work,
    targets: &X509Outputs,
    context: &X509Context,
) -> Result<(bool, Validity), Failure> {
    let hint = work.config.hint.as_deref();
    let content = render::x509(context, hint, work.config.bundle, work.clock.unix_seconds())?;
    if content.bundle.is_empty() {
        tracing::warn!(file = %targets.bundle.path.display(), "every authority has expired; the bundle is empty");
    }
    // The order that readers rely on; see `files`.
    let changed = store(vec![
        (targets.bundle.clone(), content.bundle),
        (targets.key.clone(), content.key),
        (targets.certificate.clone(), content.certificate),
    ])
    .await?;
    if changed {
        tracing::info!(spiffe_id = %content.id, "X.509-SVID written");
    }
    Ok((changed, content.validity))
}
