//! Randomness as an argument, so that tests can be repeated.

use std::fmt::Debug;
use std::sync::Arc;

/// A source of random bytes fit for keys and identifiers.
pub trait Rng: Debug + Send + Sync {
    /// Fills `buffer` with random bytes.
    fn fill(&self, buffer: &mut [u8]);

    /// A random (version 4) UUID.
    fn uuid(&self) -> uuid::Uuid {
        let mut bytes = [0_u8; 16];
        self.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }
}

/// A source that is handed around.
pub type SharedRng = Arc<dyn Rng>;

/// The operating system's generator through aws-lc.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRng;

impl SystemRng {
    /// The system's generator, ready to be handed around.
    pub fn shared() -> SharedRng {
        Arc::new(Self)
    }
}

impl Rng for SystemRng {
    #[expect(clippy::disallowed_methods, reason = "the one place that draws from the generator")]
    fn fill(&self, buffer: &mut [u8]) {
        // aws-lc fails here only when the kernel has no entropy source at all. Going on without
        // randomness would be worse than ending.
        if aws_lc_rs::rand::fill(buffer).is_err() {
            std::process::abort();
        }
    }
}
