//! When the power is cut.

use end_to_end::random::Random;

/// Where in the life of a writer the power is cut: so many groups after a moment, and then so many writes and syncs of the disk.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub at: Moment,
    pub groups: u64,
    pub operations: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It is started.
    Start,
    /// It has put everything on the disk.
    Rest,
    /// Its journal has begun another file.
    TurnOver,
}

/// How the life of a writer ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// It is killed after so many groups.
    Killed(u64),
    /// It is told to end after so many groups.
    Told(u64),
    /// The same, and then it was killed as the next group had begun to go into the journal.
    Torn(u64),
    /// The power is cut.
    Cut(Cut),
}

/// What the lives of writers on one disk have been like when it is looked at.
#[derive(Clone, Copy, Debug)]
pub enum Story {
    /// A writer that has found the remains of a killed one.
    Killed,
    /// One whose journal has turned over.
    TurnOver,
    /// One that has rested.
    Rest,
    /// One that is about to make its repositories.
    New,
    /// One that has just promised its first commits.
    Young,
    /// One that writes for long.
    Long,
    /// One that begins where another one has ended as it should.
    Told,
    /// One that finds half a group in the journal, and whose power is cut before it has put all right.
    Torn,
    /// One that finds the remains of a power cut, and whose power is cut before it has put all right.
    Twice,
}

impl Story {
    pub const ALL: [Self; 9] = [
        Self::Killed,
        Self::TurnOver,
        Self::Rest,
        Self::Twice,
        Self::Torn,
        Self::New,
        Self::Young,
        Self::Long,
        Self::Told,
    ];

    /// The ends of its lives. The last one is a power cut.
    pub fn lives(self, random: &mut Random) -> Vec<End> {
        let mut cut = |at, groups: (u64, u64), operations| {
            let (groups, operations) = (random.between(groups.0, groups.1), random.between(0, operations));
            End::Cut(Cut { at, groups, operations })
        };
        match self {
            Self::Killed => {
                let then = cut(Moment::Start, (1, 8), 60);
                vec![End::Killed(random.between(1, 60)), then]
            }
            Self::TurnOver => vec![cut(Moment::TurnOver, (0, 4), 60)],
            Self::Rest => vec![cut(Moment::Rest, (0, 3), 60)],
            Self::New => vec![cut(Moment::Start, (0, 0), 400)],
            Self::Young => vec![cut(Moment::Start, (1, 8), 60)],
            Self::Long => vec![cut(Moment::Start, (1, 100), 60)],
            Self::Told => {
                let then = cut(Moment::Start, (0, 4), 60);
                vec![End::Told(random.between(1, 30)), then]
            }
            Self::Torn => {
                let then = cut(Moment::Start, (0, 0), 40);
                vec![End::Torn(random.between(1, 8)), then]
            }
            Self::Twice => vec![cut(Moment::Start, (1, 40), 60), cut(Moment::Start, (0, 0), 150)],
        }
    }
}
