//! Commits that change nothing but who has signed the tip, and which KEYS it carries.

use bus::ServiceName;
use git_state::{Message, Series};
use margo::RepositoryName;
use tracing::info_span;

use super::{
    Open, Outcome, Store,
    draft::{Attempt, Drafted},
};
use crate::{
    domain::{ClientEdits, Edits, Row},
    error::StoreError,
};

impl Store {
    /// Signs the tips of these repositories anew, with one commit each: of a client the version rises, as with an order that
    /// changes nothing. A repository without a commit has nothing to be signed.
    pub fn renew(&mut self, names: &[RepositoryName]) -> Outcome {
        let mut outcome = self.finish();
        let mut attempts = Vec::new();
        for name in names {
            match self.take(name) {
                Ok(open) if open.tip.is_none() => self.keep(name.clone(), open),
                Ok(open) => attempts.push(match self.renewed(name, open) {
                    Ok(draft) => Attempt { draft, ..Attempt::of(name.clone()) },
                    Err(error) => Attempt::failed(name.clone(), error, Vec::new()),
                }),
                Err(error) => attempts.push(Attempt::failed(name.clone(), error, Vec::new())),
            }
        }
        let attempts = self.without_failed(attempts, &mut outcome);
        self.prepare(attempts, &mut outcome);
        self.carry_out_pending(&mut outcome);
        outcome
    }

    fn renewed(&self, name: &RepositoryName, mut open: Open) -> Result<Option<(Series, Drafted)>, StoreError> {
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
        span.in_scope(|| self.drafting().write_one(name, &row, &mut open, &mut series))?;
        let Some(to) = series.tip() else { return Ok(None) };
        let (name, handled, version, spans) = (name.clone(), open.handled.clone(), open.version, vec![span]);
        let drafted = Drafted { name, to, handled, version, open: Some(open), rows: Vec::new(), spans };
        Ok(Some((series, drafted)))
    }
}
