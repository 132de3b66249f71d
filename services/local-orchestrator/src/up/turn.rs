//! Whose turn it is: whether a well-formed report may be stored now. No bus, no disk, no clock.

use bus::report::Position;

use crate::nodes::Life;

/// Why a report is not stored, ever: it comes out of turn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfTurn {
    /// Another life of the node is the present one.
    #[error("the report is of incarnation {found}, {held} is in force")]
    OtherIncarnation { found: u64, held: u64 },
    /// A later report is stored.
    #[error("the report has sequence {found}, {held} is stored")]
    Overtaken {
        /// The sequence of the report.
        found: u64,
        /// The sequence of the report that is stored.
        held: u64,
    },
}

/// Whether a well-formed report is the node's next one. `life`: the one that is in force; `stored`: the last that was
/// stored. The same report once more is stored once more: its answer may have been lost, and readers compare.
pub fn check(life: Life, stored: Position, found: Position) -> Result<(), OutOfTurn> {
    if Life::from(found) != life {
        return Err(OutOfTurn::OtherIncarnation { found: found.incarnation, held: life.incarnation });
    }
    if found < stored {
        return Err(OutOfTurn::Overtaken { found: found.sequence, held: stored.sequence });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(incarnation: u64, sequence: u64) -> Position {
        Position { generation: 0, incarnation, sequence }
    }

    fn life(incarnation: u64) -> Life {
        Life { generation: 0, incarnation }
    }

    #[test]
    fn only_the_present_incarnation_reports_and_never_backwards() {
        assert_eq!(check(life(2), at(2, 6), at(2, 7)), Ok(()));
        assert_eq!(check(life(2), at(2, 7), at(2, 7)), Ok(()));
        assert_eq!(check(life(2), at(1, 99), at(2, 1)), Ok(()));
        assert_eq!(check(life(2), at(2, 8), at(2, 7)), Err(OutOfTurn::Overtaken { found: 7, held: 8 }));
        assert_eq!(check(life(3), at(2, 8), at(2, 9)), Err(OutOfTurn::OtherIncarnation { found: 2, held: 3 }));
        assert_eq!(check(life(1), at(1, 8), at(2, 1)), Err(OutOfTurn::OtherIncarnation { found: 2, held: 1 }));
    }
}
