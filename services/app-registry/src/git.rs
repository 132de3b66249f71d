//! What a new application looks like in `fleet.git`. One upload makes one commit.

use bus::proto;
use git_state::layout::{self, AppSource, Origin};
use outbox::{AuditSubject, Object, OrderHeader, Verb};

use crate::domain::Upload;

/// Returns the commit that adds an application: the exact text of its description, and where the application came from.
pub fn add_app(upload: &Upload, order: &OrderHeader) -> proto::GitWrite {
    let (app, version) = (&upload.description.id, &upload.description.metadata.version);
    let origin = Origin {
        source: AppSource::Upload,
        digest: upload.digest,
        added_by: order.requested_by.to_string(),
        lock: upload.lock.clone(),
        images: upload.images.clone(),
    };
    let file = |path: String, content: Vec<u8>| proto::FileChange { path, content: Some(content.into()) };
    let files = vec![
        file(layout::description(app, version), upload.text.clone().into_bytes()),
        file(layout::origin(app, version), margo::to_yaml(&origin)),
    ];
    let subject = AuditSubject { verb: Verb::Add, object: Object::App(app.clone(), version.clone()), detail: None };
    order.write(&subject, proto::git_write::Change::Fleet(proto::FleetChange { files }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use margo::{ApplicationDescription, Digest};
    use outbox::trailer;
    use testkit::HELLO;

    use super::*;

    #[test]
    fn the_commit_holds_the_exact_bytes_and_the_origin() {
        let component = Digest::of(b"component");
        let upload = Upload {
            description: ApplicationDescription::parse(HELLO.as_bytes(), "margo.yaml").unwrap(),
            text: HELLO.to_owned(),
            digest: Digest::of(b"package"),
            lock: BTreeMap::from([("hello".parse().unwrap(), component)]),
            images: BTreeMap::new(),
            manifests: Vec::new(),
        };
        let order = OrderHeader::new("ada".parse().unwrap(), None);
        let write = add_app(&upload, &order);
        assert_eq!((write.author.as_str(), write.subject.as_str()), ("ada", "add app hello 1.0.0"));
        let keys: Vec<_> = write.trailers.iter().map(|trailer| trailer.key.as_str()).collect();
        assert_eq!(keys, [trailer::ORDER, trailer::REQUESTED_BY, trailer::REQUESTED_AT]);
        let Some(proto::git_write::Change::Fleet(change)) = write.change else { panic!("a change of fleet.git") };
        let [description, origin] = &change.files[..] else { panic!("{change:?}") };
        assert_eq!(description.path, "apps/hello/1.0.0/margo.yaml");
        assert_eq!(description.content.as_deref(), Some(HELLO.as_bytes()));
        assert_eq!(origin.path, "apps/hello/1.0.0/origin.yaml");
        let origin = String::from_utf8(origin.content.clone().unwrap().into()).unwrap();
        assert!(origin.contains(&component.to_string()) && origin.contains("addedBy: ada"), "{origin}");
    }
}
