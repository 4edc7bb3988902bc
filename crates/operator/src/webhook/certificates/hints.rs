//! Hints that something may have changed. Nothing is read from them: whoever gets one asks.

use std::fmt::Debug;

use crate::cluster::feed::chain;
use futures_util::{Stream, StreamExt as _};
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};

/// One item for everything that happens to an object, also that it is gone. A watch that fails gives nothing
/// and is tried again: who asks now and then anyway only learns a little later.
pub(super) fn hints<K>(
    api: Api<PartialObjectMeta<K>>,
    name: &str,
) -> impl Stream<Item = ()> + Send + Unpin + 'static
where
    K: Clone + Debug + Send + 'static,
    PartialObjectMeta<K>: kube::Resource,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let name = name.to_owned();
    watcher(api, config)
        .default_backoff()
        .filter_map(move |event| {
            if let Err(error) = &event {
                let error = chain(error);
                tracing::debug!(name, error, "a watch failed; it is tried again");
            }
            std::future::ready(event.is_ok().then_some(()))
        })
        .boxed()
}
