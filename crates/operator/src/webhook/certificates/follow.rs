//! What every replica does: present what is in the Secret.

use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, PartialObjectMeta};
use skep_runtime::tls::CertificateSlot;
use tokio::sync::watch;

use super::hints::hints;
use super::kept::{Kept, LeafError};
use super::secret::Store;
use crate::cluster::feed::chain;

/// How soon a Secret that could not be read is asked for again.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Presents what is in the Secret and tells `seen` whenever it may have changed, for as long as this is polled.
pub(super) async fn follow(
    client: Client,
    (namespace, name): (&str, &str),
    slot: CertificateSlot,
    seen: watch::Sender<u64>,
    poll: Duration,
) {
    let store = Store::new(client.clone(), namespace, name);
    let mut changes = hints::<Secret>(Api::<PartialObjectMeta<Secret>>::namespaced(client, namespace), name);
    loop {
        let wait = if look(&store, &slot).await { poll } else { poll.min(AFTER_FAILURE) };
        seen.send_modify(|count| *count = count.wrapping_add(1));
        tokio::select! {
            Some(()) = changes.next() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// False when the Secret could not be read.
async fn look(store: &Store, slot: &CertificateSlot) -> bool {
    let name = store.name();
    match store.get().await {
        Ok(Some(version)) => match Kept::read(&version.data, slot.now()).leaf {
            Err(LeafError::Absent) => slot.missing(&format!("the Secret {name} holds no certificate yet")),
            leaf => {
                slot.offer(leaf);
            }
        },
        Ok(None) => {
            slot.missing(&format!(
                "there is no Secret {name} yet; who holds the Lease of that name makes it"
            ));
        }
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(error, "the certificate can't be looked at; trying again");
            slot.missing(&error);
            return false;
        }
    }
    true
}
