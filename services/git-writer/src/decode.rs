//! Messages of the log as the domain has them. Generated protobuf types stop here.

use bus::{DecodeError, ServiceName, proto};
use git_state::FileChange;

use crate::domain::{ClientEdits, DeploymentEdit, Edits, ImpossibleEdits, NodeEdit, OWN_TRAILERS, Row, may_write};

/// Why a message of the log is no row. It has no number that its source could count on, so it is left out.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    /// The message came on a subject that is not one of the log's.
    #[error("subject {0:?} names no repository")]
    Subject(String),
    /// The payload is no write, or a part of it is missing.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The row has the number 0, which stands for none. The text is its author.
    #[error("a row without a number, of {0}")]
    Unnumbered(String),
}

/// Reads a message of the log, whose source its subject names. A row that can be numbered is returned even if it is impossible to carry out.
pub fn row(source: ServiceName, write: proto::GitWrite) -> Result<Row, Undecodable> {
    let proto::GitWrite { number, author, subject, trailers, change, follows_fleet } = write;
    if number == 0 {
        return Err(Undecodable::Unnumbered(author));
    }
    let given = trailers.iter().filter(|trailer| !OWN_TRAILERS.contains(&trailer.key.as_str()));
    let message = given
        .fold(git_state::Message::new(&subject), |message, proto::Trailer { key, value }| message.with(key, value));
    let edits = match change {
        Some(proto::git_write::Change::Fleet(change)) => files(source, change).map(Edits::Files),
        Some(proto::git_write::Change::Client(change)) => client(source, change).map(Edits::Client),
        None => Err(ImpossibleEdits::Unknown),
    };
    Ok(Row { source, number, follows_fleet, author, message, edits })
}

fn files(source: ServiceName, change: proto::FleetChange) -> Result<Vec<FileChange>, ImpossibleEdits> {
    let file = |proto::FileChange { path, content }| {
        let path = git_state::TreePath::try_from(path)?;
        if !may_write(source, &path) {
            return Err(ImpossibleEdits::Foreign { source_name: source, path });
        }
        Ok(FileChange { path, content: content.map(Into::into) })
    };
    change.files.into_iter().map(file).collect()
}

/// Each part of a client's repository has one source. Removals come first, so that a deployment that the same row removes and
/// puts is there afterwards.
fn client(source: ServiceName, change: proto::ClientChange) -> Result<ClientEdits, ImpossibleEdits> {
    let foreign = |what| Err(ImpossibleEdits::ForeignEdit { source_name: source, what });
    if !change.nodes.is_empty() && source != ServiceName::NodeCapabilities {
        return foreign("who a node is");
    }
    if !(change.puts.is_empty() && change.removes.is_empty()) && source != ServiceName::DeploymentRegistry {
        return foreign("deployments");
    }
    let node = |proto::PutNode { node, identity }: proto::PutNode| {
        margo::NodeIdentity::parse(&identity)?;
        Ok(NodeEdit { node: node.parse()?, identity: identity.into() })
    };
    let nodes = change.nodes.into_iter().map(node).collect::<Result<_, ImpossibleEdits>>()?;
    let removes =
        change.removes.into_iter().map(|proto::RemoveDeployment { node, deployment }| (node, deployment, None));
    let puts = change.puts.into_iter().map(|proto::PutDeployment { node, deployment, document, summary }| {
        (node, deployment, Some((document.into(), summary.into())))
    });
    let edit = |(node, deployment, content): (String, String, _)| {
        Ok(DeploymentEdit { node: node.parse()?, deployment: deployment.parse()?, content })
    };
    let deployments = removes.chain(puts).map(edit).collect::<Result<_, ImpossibleEdits>>()?;
    Ok(ClientEdits { nodes, deployments })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(change: Option<proto::git_write::Change>) -> proto::GitWrite {
        proto::GitWrite { number: 1, subject: "x".into(), change, ..Default::default() }
    }

    fn apps(write: proto::GitWrite) -> Result<Row, Undecodable> {
        row(ServiceName::AppRegistry, write)
    }

    fn fleet(path: &str) -> Option<proto::git_write::Change> {
        let files = vec![proto::FileChange { path: path.into(), content: None }];
        Some(proto::git_write::Change::Fleet(proto::FleetChange { files }))
    }

    #[test]
    fn a_row_keeps_its_number_also_when_it_is_impossible() {
        assert!(apps(write(fleet("apps/hello/1/margo.yaml"))).unwrap().edits.is_ok());
        for change in [fleet("../x"), fleet("assignments/x.yaml"), fleet("/apps/x"), None] {
            let decoded = apps(write(change)).unwrap();
            assert_eq!(decoded.number, 1);
            decoded.edits.unwrap_err();
        }
    }

    #[test]
    fn a_message_without_a_number_is_no_row() {
        let unnumbered = proto::GitWrite { number: 0, ..write(None) };
        assert!(matches!(apps(unnumbered), Err(Undecodable::Unnumbered(_))));
    }

    #[test]
    fn each_part_of_a_client_s_repository_has_one_source() {
        let identity = margo::NodeIdentity { device: "plant/press".parse().unwrap(), identity: None, former: vec![] };
        let node = proto::PutNode { node: "press".into(), identity: identity.to_bytes().into() };
        let admits = proto::ClientChange { nodes: vec![node.clone()], ..Default::default() };
        let id = "00000000-0000-4000-8000-000000000001".to_owned();
        let remove = proto::RemoveDeployment { node: "press".into(), deployment: id };
        let removes = proto::ClientChange { removes: vec![remove], ..Default::default() };
        let edits = |source, change: &proto::ClientChange| {
            row(source, write(Some(proto::git_write::Change::Client(change.clone())))).unwrap().edits
        };
        edits(ServiceName::NodeCapabilities, &admits).unwrap();
        edits(ServiceName::DeploymentRegistry, &removes).unwrap();
        edits(ServiceName::NodeCapabilities, &removes).unwrap_err();
        edits(ServiceName::DeploymentRegistry, &admits).unwrap_err();
        edits(ServiceName::AppRegistry, &admits).unwrap_err();
        let malformed = proto::PutNode { identity: b"x".as_slice().into(), ..node };
        edits(ServiceName::NodeCapabilities, &proto::ClientChange { nodes: vec![malformed], ..Default::default() })
            .unwrap_err();
    }

    #[test]
    fn a_source_cannot_say_how_far_a_repository_is() {
        let trailer = |key: &str| proto::Trailer { key: key.into(), value: "app-registry=99".into() };
        let trailers = vec![trailer("Order"), trailer("Handled"), trailer("Traceparent"), trailer("Manifest-Version")];
        let decoded = apps(proto::GitWrite { trailers, ..write(None) }).unwrap();
        assert_eq!(decoded.message.trailers().map(|(key, _)| key).collect::<Vec<_>>(), ["Order"]);
    }
}
