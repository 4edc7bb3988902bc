//! A JWT-SVID.

use std::sync::Arc;
use std::time::Duration;

use skep_auth::spiffe::{JwtSvid, TrustDomain};

use super::{Keeper, SeenBundles, Work, store};
use crate::helper::config::JwtOutput;
use crate::helper::error::{Failure, HelperError};
use crate::helper::render::{self, Validity};
use crate::helper::status::Output;

/// The clock is looked at at least this often, so that a machine that slept, or whose clock was set, does not
/// keep a token that has expired.
const LOOK: Duration = Duration::from_secs(30);

/// What was fetched: until when it is good, and whose key signed it.
struct Fetched {
    validity: Validity,
    trust_domain: TrustDomain,
    key_id: String,
}

/// Fetches the token, and again at half of its life, or when the key that signed it is trusted no longer.
///
/// # Errors
/// When the agent refuses the call as such; where the work is to be done once, also when what it sent can't
/// be written.
pub(super) async fn keep(
    work: Arc<Work>,
    position: usize,
    output: JwtOutput,
    mut bundles: SeenBundles,
) -> Result<(), HelperError> {
    let mut keeper = Keeper::new(Arc::clone(&work), Output::Jwt(position), &output.target);
    loop {
        match fetch(&work, &output).await {
            Ok((changed, fetched)) => {
                keeper.written(changed, Some(fetched.validity));
                if work.once {
                    return Ok(());
                }
                wait(&work, &fetched, &mut bundles).await;
            }
            Err(failure) => {
                let waiting_helps = match &failure {
                    Failure::Workload(error) => !error.kind().is_permanent(),
                    // What does not fit now will not fit soon, and there is nobody to see that it does.
                    Failure::Render(_) | Failure::Write(_) => !work.once,
                };
                if !waiting_helps {
                    return Err(keeper.fatal(failure));
                }
                let pause = keeper.backoff.pause();
                keeper.failed(&failure, pause);
                tokio::time::sleep(pause).await;
            }
        }
    }
}

async fn fetch(work: &Work, output: &JwtOutput) -> Result<(bool, Fetched), Failure> {
    let svids: Vec<JwtSvid> = work.api.fetch_jwt_svids(&output.audiences).await?;
    let audience = output.audiences.first().map(String::as_str).unwrap_or_default();
    let now = work.clock.unix_seconds();
    let (svid, validity) = render::jwt(&svids, work.config.hint.as_deref(), audience, now)?;
    let fetched = Fetched {
        validity,
        trust_domain: svid.spiffe_id().trust_domain().clone(),
        key_id: svid.key_id().to_owned(),
    };
    let changed = store(vec![(output.target.clone(), render::token(svid))]).await?;
    Ok((changed, fetched))
}

/// Waits until the token is to be fetched again.
async fn wait(work: &Work, fetched: &Fetched, bundles: &mut SeenBundles) {
    // What was seen before the token came says nothing about it.
    bundles.mark_unchanged();
    let due = fetched.validity.from.saturating_add(refresh_after(fetched.validity));
    // Half of a life that is counted in seconds, to the fraction, as long as nobody sets the clock.
    let left = |now: i64| Duration::from_secs(u64::try_from(due.saturating_sub(now)).unwrap_or(0));
    loop {
        let left = left(work.clock.unix_seconds());
        if left.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(LOOK)) => {}
            () = taken_back(fetched, bundles) => {
                tracing::info!("the key that signed a JWT-SVID is trusted no longer; fetching another");
                return;
            }
        }
    }
}

/// Seconds until the half of a life, and one more, so that an agent that keeps tokens until then has a new one.
fn refresh_after(validity: Validity) -> i64 {
    let life = validity.until.saturating_sub(validity.from);
    (life / 2 + 1).min((life * 3 / 4).max(1))
}

/// Resolves when a new bundle is without the key of the token.
async fn taken_back(fetched: &Fetched, bundles: &mut SeenBundles) {
    loop {
        if bundles.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let seen = bundles.borrow_and_update().clone();
        if seen.is_some_and(|seen| render::is_taken_back(&seen, &fetched.trust_domain, &fetched.key_id)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_at_half_of_its_life() {
        for (life, after) in [(300, 151), (3600, 1801), (10, 6), (4, 3), (3, 2), (2, 1), (1, 1)] {
            assert_eq!(refresh_after(Validity { from: 1000, until: 1000 + life }), after, "{life}");
        }
    }
}
