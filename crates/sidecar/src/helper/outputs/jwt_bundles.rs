//! The keys that JWT-SVIDs are verified with.

use std::sync::Arc;

use skep_auth::spiffe::{Event, JwtBundleSet};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{Keeper, Work, store};
use crate::helper::error::{Failure, HelperError};
use crate::helper::render;
use crate::helper::status::Output;

/// Writes the bundles whenever the agent sends them.
///
/// # Errors
/// When the agent refuses the call as such; where the work is to be done once, also when what it sent can't
/// be written.
pub(super) async fn keep(
    work: Arc<Work>,
    seen: watch::Sender<Option<Arc<JwtBundleSet>>>,
) -> Result<(), HelperError> {
    let Some(target) = work.jwt_bundles.first() else { return Ok(()) };
    let mut updates = work.api.watch_jwt_bundles(work.retry, Arc::clone(&work.clock), Arc::clone(&work.rng));
    let mut keeper = Keeper::new(Arc::clone(&work), Output::JwtBundles, target);
    let mut pending: Option<(Arc<JwtBundleSet>, Instant)> = None;
    loop {
        let again = pending.as_ref().map(|(_, again)| *again);
        let bundles = tokio::select! {
            event = updates.next() => match event {
                Ok(Event::Update(bundles)) => {
                    let bundles = Arc::new(bundles);
                    let _ = seen.send(Some(Arc::clone(&bundles)));
                    bundles
                }
                Ok(Event::Trouble { error, pause }) => {
                    keeper.failed(&error.into(), pause);
                    continue;
                }
                Err(error) => return Err(keeper.fatal(error)),
            },
            () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => match pending.take() {
                Some((bundles, _)) => bundles,
                None => continue,
            },
        };
        match write(&work, &bundles).await {
            Ok(changed) => {
                pending = None;
                keeper.written(changed, None);
                if work.once {
                    return Ok(());
                }
            }
            Err(failure) if work.once => return Err(keeper.fatal(failure)),
            Err(failure) => {
                let pause = keeper.backoff.pause();
                keeper.failed(&failure, pause);
                pending = Some((bundles, Instant::now() + pause));
            }
        }
    }
}

async fn write(work: &Work, bundles: &JwtBundleSet) -> Result<bool, Failure> {
    let content = render::jwt_bundles(bundles);
    store(work.jwt_bundles.iter().map(|target| (target.clone(), content.clone())).collect()).await
}
