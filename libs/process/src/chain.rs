//! Showing an error and its causes in one line.

use std::error::Error;

use crate::escaped;

/// Joins an error and its causes with `: `, the outermost first, for people who see one line and not the log.
pub fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(|cause| escaped(&cause.to_string()).into_owned()).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_told_once() {
        let error = anyhow::anyhow!("no such file").context("reading spec.json").context("starting hello");
        assert_eq!(chain(error.as_ref()), "starting hello: reading spec.json: no such file");
    }
}
