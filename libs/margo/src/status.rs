//! The states in which a deployment and each of its components can be.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Margo's states of a deployment or a component, ordered from the least to the most severe.
///
/// The specification names `removing` twice in its order and forgets `removed` (T06). The order here is, from the
/// most severe: failed, removing, installing, pending, removed, installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The component runs as ordered.
    Installed,
    /// The component is gone as ordered.
    Removed,
    /// The order is known, and work on it has not begun.
    Pending,
    /// The component is being fetched, started or waited for.
    Installing,
    /// The component is being stopped, and what it left is being cleaned away.
    Removing,
    /// The component is not as ordered, and will not get there by itself.
    Failed,
}

impl State {
    /// Returns the overall state, which is the state of the most severe component (DEV-20). Without components it is
    /// pending.
    pub fn worst(states: impl IntoIterator<Item = State>) -> State {
        states.into_iter().max().unwrap_or(State::Pending)
    }

    /// Returns the word that Margo documents use for the state.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Installed => "installed",
            State::Removed => "removed",
            State::Pending => "pending",
            State::Installing => "installing",
            State::Removing => "removing",
            State::Failed => "failed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is no deployment state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no deployment state: pending, installing, installed, failed, removing or removed")]
pub struct InvalidState(String);

impl FromStr for State {
    type Err = InvalidState;

    fn from_str(raw: &str) -> Result<Self, InvalidState> {
        [State::Installed, State::Removed, State::Pending, State::Installing, State::Removing, State::Failed]
            .into_iter()
            .find(|state| state.as_str() == raw)
            .ok_or_else(|| InvalidState(raw.chars().take(100).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_20_the_most_severe_component_decides() {
        use State::*;
        let order = [Failed, Removing, Installing, Pending, Removed, Installed];
        for (at, state) in order.into_iter().enumerate() {
            assert_eq!(State::worst(order[at..].iter().copied()), state);
        }
        assert_eq!(State::worst([]), Pending);
    }
}
