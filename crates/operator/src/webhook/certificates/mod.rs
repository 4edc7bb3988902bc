//! The serving certificate of the webhook: read from files that somebody else writes, or made by the webhook
//! itself.
//!
//! What the webhook makes itself lies in a Secret: a CA's certificate and key, and a certificate that it signed.
//! Every replica presents what is in the Secret; only the holder of a Lease writes there and announces the CA to
//! the API server, as `caBundle` in the webhook configurations. A new CA is announced beside the old one before
//! anything that it signed is presented, and the old one is withdrawn long after nothing of it is presented any
//! more, so that at every moment the API server trusts what it may meet:
//!
//! 1. a new CA goes into the Secret, in front of the old ones; the certificate stays;
//! 2. all of them are written into both configurations;
//! 3. a little later, since an API server learns of that by a watch, a certificate of the new CA goes into the
//!    Secret, and the replicas present it;
//! 4. the old CAs leave the Secret, and then the configurations.

mod announce;
mod authority;
mod follow;
mod hints;
mod keep;
mod kept;
mod run;
mod secret;
mod step;

pub use self::announce::AnnounceError;
pub use self::authority::MakeError;
pub use self::keep::{KeepError, PART};
pub use self::kept::LeafError;
pub use self::run::{Pace, Parts, run};
pub use self::secret::{FIELD_MANAGER, SecretError};
