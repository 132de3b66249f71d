//! Commits that change nothing but who has signed the tip, and which KEYS it carries.

use bus::ServiceName;
use git_state::Message;
use margo::RepositoryName;
use tracing::info_span;

use super::{Attempt, Drafted, Failed, Open, Outcome, Store};
use crate::{
    domain::{ClientEdits, Edits, Row},
    error::StoreError,
};

impl Store {
    /// Signs the tips of these repositories anew, with one commit each: of a client the version rises, as with an order that
    /// changes nothing. A repository without a commit has nothing to be signed.
    pub fn renew(&mut self, names: &[RepositoryName]) -> Outcome {
        let mut outcome = Outcome::default();
        let mut drafts = Vec::new();
        for name in names {
            match self.take(name) {
                Ok(open) if open.tip.is_none() => self.keep(name.clone(), open),
                Ok(open) => match self.renewed(name, open) {
                    Ok(attempt) => drafts.extend(attempt.draft),
                    Err(error) => outcome.failed.push(failed(name, error)),
                },
                Err(error) => outcome.failed.push(failed(name, error)),
            }
        }
        if !drafts.is_empty() {
            self.advance(drafts, &mut outcome);
        }
        outcome
    }

    fn renewed(&self, name: &RepositoryName, mut open: Open) -> Result<Attempt, StoreError> {
        let handled = open.handled.clone();
        let mut series = self.writer.series(name, open.tip);
        let row = Row {
            source: ServiceName::GitWriter,
            number: 0,
            follows_fleet: 0,
            author: ServiceName::GitWriter.to_string(),
            message: Message::new("sign with the keys in force"),
            edits: Ok(match name {
                RepositoryName::Fleet => Edits::Files(Vec::new()),
                RepositoryName::Client(_) => Edits::Client(ClientEdits::default()),
            }),
        };
        let span = info_span!("sign anew", repository = %name);
        span.in_scope(|| self.write(name, &row, handled, &mut open, &mut series))?;
        let Some(to) = series.tip() else { return Ok(Attempt::default()) };
        let (name, handled, version, spans) = (name.clone(), open.handled.clone(), open.version, vec![span]);
        let drafted = Drafted { name, to, handled, version, open: Some(open), rows: Vec::new(), spans };
        Ok(Attempt { draft: Some((series, drafted)), ..Attempt::default() })
    }
}

fn failed(name: &RepositoryName, error: StoreError) -> Failed {
    Failed { repository: name.clone(), error, rows: Vec::new() }
}
