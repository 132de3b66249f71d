//! Messages of the log as the domain has them. Generated protobuf types stop here.

use bus::{DecodeError, proto};
use git_state::FileChange;

use crate::domain::{DeploymentEdit, Edits, ImpossibleEdits, OWN_TRAILERS, Row, may_write};

/// Why a message of the log is no row. It has no number that its source could count on, so it is left out.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    /// The message came on a subject that is not one of the log's.
    #[error("subject {0:?} names no repository")]
    Subject(String),
    /// The payload is no write, or a part of it is missing.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The row names a source that is no service.
    #[error("{0:?} is no source")]
    Source(String),
    /// The row has the number 0, which stands for none. The text is its author.
    #[error("a row without a number, of {0}")]
    Unnumbered(String),
}

/// Reads a message of the log. A row that can be numbered is returned even if it is impossible to carry out.
pub fn row(write: proto::GitWrite) -> Result<Row, Undecodable> {
    let proto::GitWrite { source, number, author, subject, trailers, change } = write;
    let source = source.parse().map_err(|_| Undecodable::Source(source))?;
    if number == 0 {
        return Err(Undecodable::Unnumbered(author));
    }
    let given = trailers.iter().filter(|trailer| !OWN_TRAILERS.contains(&trailer.key.as_str()));
    let message = given
        .fold(git_state::Message::new(&subject), |message, proto::Trailer { key, value }| message.with(key, value));
    let edits = match change {
        Some(proto::git_write::Change::Fleet(change)) => files(source, change).map(Edits::Files),
        Some(proto::git_write::Change::Client(change)) => deployments(change).map(Edits::Deployments),
        None => Err(ImpossibleEdits::Unknown),
    };
    Ok(Row { source, number, author, message, edits })
}

fn files(source: bus::ServiceName, change: proto::FleetChange) -> Result<Vec<FileChange>, ImpossibleEdits> {
    let file = |proto::FileChange { path, content }| {
        let path = git_state::TreePath::try_from(path)?;
        if !may_write(source, &path) {
            return Err(ImpossibleEdits::Foreign { source_name: source, path });
        }
        Ok(FileChange { path, content: content.map(Into::into) })
    };
    change.files.into_iter().map(file).collect()
}

/// Removals come first, so that a deployment that the same row removes and puts is there afterwards.
fn deployments(change: proto::ClientChange) -> Result<Vec<DeploymentEdit>, ImpossibleEdits> {
    let removes =
        change.removes.into_iter().map(|proto::RemoveDeployment { node, deployment }| (node, deployment, None));
    let puts = change.puts.into_iter().map(|proto::PutDeployment { node, deployment, document, summary }| {
        (node, deployment, Some((document.into(), summary.into())))
    });
    let edit = |(node, deployment, content): (String, String, _)| {
        Ok(DeploymentEdit { node: node.parse()?, deployment: deployment.parse()?, content })
    };
    removes.chain(puts).map(edit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(change: Option<proto::git_write::Change>) -> proto::GitWrite {
        proto::GitWrite { source: "app-registry".into(), number: 1, subject: "x".into(), change, ..Default::default() }
    }

    fn fleet(path: &str) -> Option<proto::git_write::Change> {
        let files = vec![proto::FileChange { path: path.into(), content: None }];
        Some(proto::git_write::Change::Fleet(proto::FleetChange { files }))
    }

    #[test]
    fn a_row_keeps_its_number_also_when_it_is_impossible() {
        assert!(row(write(fleet("apps/hello/1/margo.yaml"))).unwrap().edits.is_ok());
        for change in [fleet("../x"), fleet("assignments/x.yaml"), fleet("/apps/x"), None] {
            let decoded = row(write(change)).unwrap();
            assert_eq!(decoded.number, 1);
            decoded.edits.unwrap_err();
        }
    }

    #[test]
    fn a_message_without_source_or_number_is_no_row() {
        assert!(matches!(row(proto::GitWrite::default()), Err(Undecodable::Source(_))));
        let unnumbered = proto::GitWrite { number: 0, ..write(None) };
        assert!(matches!(row(unnumbered), Err(Undecodable::Unnumbered(_))));
    }

    #[test]
    fn a_source_cannot_say_how_far_a_repository_is() {
        let trailer = |key: &str| proto::Trailer { key: key.into(), value: "app-registry=99".into() };
        let trailers = vec![trailer("Order"), trailer("Handled"), trailer("Traceparent"), trailer("Manifest-Version")];
        let decoded = row(proto::GitWrite { trailers, ..write(None) }).unwrap();
        assert_eq!(decoded.message.trailers().map(|(key, _)| key).collect::<Vec<_>>(), ["Order"]);
    }
}
