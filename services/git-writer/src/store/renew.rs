//! Commits that change nothing but who has signed the tip, and which KEYS it carries.

use bus::ServiceName;
use git_state::{Message, Series};
use margo::RepositoryName;
use tracing::info_span;

use super::{Attempt, Drafted, Failed, Outcome, Store};
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
            match self.at_tip(name).map(|open| open.tip.is_some()) {
                Ok(false) => {}
                Ok(true) => match self.renewed(name) {
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

    fn renewed(&self, name: &RepositoryName) -> Result<Attempt, StoreError> {
        let open = &self.open[name];
        let (mut list, handled) = (open.list.clone(), open.handled.clone());
        let mut series = Series::on(&open.repository, open.tip);
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
        let version = span.in_scope(|| self.write(name, &row, open.version, &handled, &mut list, &mut series))?;
        let Some(to) = series.tip() else { return Ok(Attempt::default()) };
        let weight = series.size();
        let (name, list, spans) = (name.clone(), Some(list), vec![span]);
        let drafted = Drafted { name, to, handled, version, list, rows: Vec::new(), spans, weight };
        Ok(Attempt { draft: Some((series, drafted)), ..Attempt::default() })
    }
}

fn failed(name: &RepositoryName, error: StoreError) -> Failed {
    Failed { repository: name.clone(), error, rows: Vec::new() }
}
