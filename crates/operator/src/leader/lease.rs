//! The Lease on the API server.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, PostParams};
use thiserror::Error;

/// Why a Lease could not be read or written.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// Somebody else wrote, made or deleted it in the meantime.
    #[error("somebody else wrote the Lease")]
    Conflict,
    /// A right is missing.
    #[error("no right to {verb} the Lease; the operator's Role in that namespace must grant it")]
    Forbidden {
        /// What was tried.
        verb: &'static str,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// Anything else.
    #[error("the API server can't {verb} the Lease")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// What went wrong.
        source: Box<kube::Error>,
    },
}

/// One Lease. Each write is one atomic step that fails when the object is not what the writer saw.
pub trait Leases: Send {
    /// As it is now; `None` when there is none.
    ///
    /// # Errors
    /// When it can't be read.
    fn get(&self) -> impl Future<Output = Result<Option<Lease>, LeaseError>> + Send;

    /// Makes it.
    ///
    /// # Errors
    /// [`LeaseError::Conflict`] when there is one.
    fn create(&self, lease: Lease) -> impl Future<Output = Result<Lease, LeaseError>> + Send;

    /// Replaces the one with this resource version.
    ///
    /// # Errors
    /// [`LeaseError::Conflict`] when it has another version by now, or is gone.
    fn replace(&self, lease: Lease) -> impl Future<Output = Result<Lease, LeaseError>> + Send;
}

/// The Lease of a cluster.
#[derive(Clone)]
pub struct ClusterLeases {
    api: Api<Lease>,
    name: String,
}

impl ClusterLeases {
    /// The Lease with this name.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned() }
    }
}

impl std::fmt::Debug for ClusterLeases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterLeases").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Leases for ClusterLeases {
    async fn get(&self) -> Result<Option<Lease>, LeaseError> {
        self.api.get_opt(&self.name).await.map_err(|error| failed("get", error))
    }

    async fn create(&self, lease: Lease) -> Result<Lease, LeaseError> {
        self.api.create(&PostParams::default(), &lease).await.map_err(|error| failed("create", error))
    }

    async fn replace(&self, lease: Lease) -> Result<Lease, LeaseError> {
        match self.api.replace(&self.name, &PostParams::default(), &lease).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Err(LeaseError::Conflict),
            result => result.map_err(|error| failed("update", error)),
        }
    }
}

fn failed(verb: &'static str, error: kube::Error) -> LeaseError {
    let code = if let kube::Error::Api(status) = &error { status.code } else { 0 };
    match code {
        409 => LeaseError::Conflict,
        403 => LeaseError::Forbidden { verb, source: Box::new(error) },
        _ => LeaseError::Api { verb, source: Box::new(error) },
    }
}

/// A time as a Lease can hold it.
pub(super) fn micro_time(time: Timestamp) -> MicroTime {
    MicroTime(Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time))
}

/// `now`, but always later than `before`: a renewal with the same time would change nothing on the API server,
/// and others would take us for dead.
pub(super) fn later(now: MicroTime, before: Option<&MicroTime>) -> MicroTime {
    match before {
        Some(before) if before.0 >= now.0 => {
            MicroTime(before.0.checked_add(SignedDuration::from_micros(1)).unwrap_or(Timestamp::MAX))
        }
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_is_never_the_same_as_the_one_before() {
        let at = |microseconds| micro_time(Timestamp::from_microsecond(microseconds).expect("a time"));
        assert_eq!(later(at(5), None), at(5));
        assert_eq!(later(at(5), Some(&at(4))), at(5));
        assert_eq!(later(at(5), Some(&at(5))), at(6));
        assert_eq!(later(at(5), Some(&at(9))), at(10), "our clock was set back");
    }
}
