//! The SPIFFE Workload API, as far as it is used here: where the agent is, what can go wrong, single answers
//! and answers that keep coming.
//!
//! The wire format and the rules of SVIDs are those of the crate `spiffe`: it checks the form of every SVID,
//! and refuses an answer in which one is not whole. What it gives out is what the agent sent, byte by byte,
//! with one exception: of a JWT bundle the keys are kept and whatever else stood in the JWKS is not.

mod address;
mod backoff;
mod error;
mod pair;
mod updates;

use std::time::Duration;

use ::spiffe::WorkloadApiClient;
pub use ::spiffe::{
    JwtBundle, JwtBundleSet, JwtSvid, SpiffeId, TrustDomain, X509BundleSet, X509Context, X509Svid,
};

pub use self::address::{AddressError, AgentAddress, DEFAULT_SOCKET, ENDPOINT_SOCKET};
pub use self::backoff::{Backoff, RetryTimes};
pub use self::error::{Call, Kind, WorkloadError};
pub use self::pair::{PairError, check_pair};
pub use self::updates::{Event, Updates};

/// How long an agent may take for one answer. A SPIRE agent that looks up the pod of its caller at the
/// kubelet can need half a minute.
const ANSWER: Duration = Duration::from_secs(60);

/// The Workload API of one agent. Nothing is connected before the first call, and each call connects anew,
/// so that an agent that was restarted is found again.
#[derive(Debug, Clone)]
pub struct WorkloadApi {
    address: AgentAddress,
}

impl WorkloadApi {
    /// The API behind `address`.
    pub fn new(address: AgentAddress) -> Self {
        Self { address }
    }

    /// Where the agent is.
    pub fn address(&self) -> &AgentAddress {
        &self.address
    }

    /// The JWT-SVIDs for these audiences, one for each identity of the workload, the default one first.
    ///
    /// # Errors
    /// See [`Kind`].
    pub async fn fetch_jwt_svids(&self, audiences: &[String]) -> Result<Vec<JwtSvid>, WorkloadError> {
        let client = self.connect(Call::JwtSvids).await?;
        in_time(Call::JwtSvids, client.fetch_all_jwt_svids(audiences, None)).await
    }

    async fn connect(&self, call: Call) -> Result<WorkloadApiClient, WorkloadError> {
        let connecting = WorkloadApiClient::connect(self.address.endpoint());
        match tokio::time::timeout(ANSWER, connecting).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(source)) => {
                Err(WorkloadError::Connect { address: self.address.to_string(), source: Box::new(source) })
            }
            Err(_) => Err(WorkloadError::Late { call }),
        }
    }
}

async fn in_time<T>(
    call: Call,
    answer: impl Future<Output = Result<T, ::spiffe::WorkloadApiError>>,
) -> Result<T, WorkloadError> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(answer) => answer.map_err(|error| WorkloadError::of(call, error)),
        Err(_) => Err(WorkloadError::Late { call }),
    }
}
