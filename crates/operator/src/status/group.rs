//! Status of an MCPGroup.

use jiff::Timestamp;
use serde_json::Value;
use skep_api::condition::Condition;
use skep_api::crd::Object;

use super::conditions::{Keep, READY};
use super::config::{going, with_ready};
use super::draft::Draft;
use crate::plan::Planned;

const CHECKED: &str = "MCPServersChecked";

/// The members of a group, in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Names of MCPServers.
    pub servers: Vec<String>,
    /// Names of MCPRemoteProxies.
    pub remote_proxies: Vec<String>,
    /// Names of MCPServerEntries.
    pub entries: Vec<String>,
}

/// The status of an MCPGroup. `members` is none while they can't be listed; a group is ready as soon as they
/// can, however many there are and however they are.
pub fn group(
    object: &Object,
    planned: &Planned,
    members: Option<&Members>,
    present: &Value,
    now: Timestamp,
) -> Value {
    let mut draft = Draft::new(object, present);
    if let Some(members) = members {
        for (names, list, count) in [
            (&members.servers, "servers", "serverCount"),
            (&members.remote_proxies, "remoteProxies", "remoteProxyCount"),
            (&members.entries, "entries", "entryCount"),
        ] {
            let mut names = names.clone();
            names.sort_unstable();
            names.dedup();
            draft.set(count, names.len());
            draft.put(list, (!names.is_empty()).then_some(names));
        }
    }
    if object.metadata.is_terminating() {
        draft.conditions(vec![going()], Keep::All, now);
        return draft.finish();
    }
    let mut found = with_ready(planned);
    if members.is_some() {
        draft.set("phase", "Ready");
        found.push(Condition::yes(CHECKED, "ListMCPServersCheckSucceeded", "The members could be listed."));
    } else {
        let message = "The members could not be listed.";
        draft.set("phase", "Failed");
        found.retain(|condition| condition.kind != READY);
        found.push(Condition::no(CHECKED, "ListMCPServersCheckFailed", message));
        found.push(Condition::no(READY, "NotReady", message));
    }
    draft.conditions(found, Keep::Only(&[]), now);
    draft.finish()
}
