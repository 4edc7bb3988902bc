//! For tests: sees every call that passes the gate, and may make it fail before or after the API server
//! has it. Costs nothing where there is none.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::Call;

/// A hook that is handed around.
pub type SharedHook = Arc<dyn Hook>;

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on as it would.
    Pass,
    /// The connection breaks. After the call was sent: it was carried out, and nobody knows.
    Break,
    /// This is answered, with a Status object of this code and reason: 409 `Conflict`, 500 `InternalError`.
    Answer {
        /// HTTP status code.
        code: u16,
        /// Reason in the Status object.
        reason: String,
    },
}

/// Decides about calls.
pub trait Hook: fmt::Debug + Send + Sync {
    /// Before a call is sent. Anything but [`Verdict::Pass`], and it isn't.
    fn before(&self, call: &Call) -> Verdict;

    /// After a call was answered with `code`, before anybody knows.
    fn after(&self, call: &Call, code: u16) -> Verdict;
}

/// Remembers all calls and their answers; lets all of them pass.
#[derive(Debug, Default)]
pub struct Recorder {
    calls: Mutex<Vec<(Call, u16)>>,
}

impl Recorder {
    /// One that has seen nothing.
    pub fn shared() -> Arc<Self> {
        Arc::default()
    }

    /// Calls that were answered, with the status code.
    pub fn calls(&self) -> Vec<(Call, u16)> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those that change something.
    pub fn writes(&self) -> Vec<(Call, u16)> {
        self.calls().into_iter().filter(|(call, _)| call.is_write()).collect()
    }

    /// Forgets what it has seen.
    pub fn clear(&self) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Hook for Recorder {
    fn before(&self, _call: &Call) -> Verdict {
        Verdict::Pass
    }

    fn after(&self, call: &Call, code: u16) -> Verdict {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push((call.clone(), code));
        Verdict::Pass
    }
}
