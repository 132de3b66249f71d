//! The states of a deployment and of its components.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Margo's deployment states, from the least to the most severe.
///
/// The specification names `removing` twice in its order and forgets `removed` (T06); ours is the order of
/// the design: failed, removing, installing, pending, removed, installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Runs as ordered.
    Installed,
    /// Is gone as ordered.
    Removed,
    /// Known, not begun.
    Pending,
    /// Being fetched, started or waited for.
    Installing,
    /// Being stopped and cleaned away.
    Removing,
    /// Not as ordered, and not getting there by itself.
    Failed,
}

impl State {
    /// The overall state: that of the most severe component (DEV-20). Without components, pending.
    pub fn worst(states: impl IntoIterator<Item = State>) -> State {
        states.into_iter().max().unwrap_or(State::Pending)
    }

    /// The word that Margo uses.
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

impl FromStr for State {
    type Err = String;

    fn from_str(raw: &str) -> Result<Self, String> {
        [State::Installed, State::Removed, State::Pending, State::Installing, State::Removing, State::Failed]
            .into_iter()
            .find(|state| state.as_str() == raw)
            .ok_or_else(|| format!("{raw:?} is no deployment state"))
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
