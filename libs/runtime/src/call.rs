//! The terms of one call: until when, and where its progress is told.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The terms of one call to a runtime. Cheap to clone; clones share the progress.
#[derive(Clone, Debug)]
pub struct Call {
    /// When the caller gives up and drops the call.
    pub deadline: Instant,
    /// Where the runtime tells how far it is.
    pub progress: Progress,
}

impl Call {
    /// A call that may take so long from now on.
    pub fn within(time: Duration) -> Self {
        Self { deadline: Instant::now() + time, progress: Progress::default() }
    }

    /// Returns the time that is left.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// How far a call is, in words for people. The last words stand in the failure when the call comes to its deadline.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<Option<String>>>);

impl Progress {
    /// Says what is being done now, such as `loading image 2 of 3`.
    pub fn tell(&self, words: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(words.into());
    }

    /// Returns what was said last.
    pub fn last(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
