use testkit::HELLO;

use super::*;

fn listed(reference: &str, manifest: ArtifactManifest) -> Listed {
    let digest = Digest::of(&manifest.to_json());
    Listed { reference: reference.parse().unwrap(), digest, manifest }
}

fn package_of(text: &str) -> Listed {
    listed(
        "hello:1.0.0",
        ArtifactManifest::artifact(media::APP, vec![Descriptor::of(media::DESCRIPTION, text.as_bytes())]),
    )
}

fn component() -> Listed {
    listed("hello:1.0.0", ArtifactManifest::artifact(media::WASM_ARTIFACT, vec![Descriptor::of(media::WASM, b"wasm")]))
}

/// An upload with these manifests and no images.
fn of(listed: &[Listed]) -> Contents {
    Contents { listed: listed.to_vec(), ..Contents::default() }
}

/// What an upload with this text and these manifests is refused for.
fn refusal(text: &str, listed: &[Listed]) -> String {
    let checked = package(listed).and_then(|(package, _)| check(&of(listed), package, "margo.yaml", text.into()));
    checked.expect_err("it must be refused").problem().to_string()
}

#[test]
fn an_upload_is_locked_to_the_digests_of_its_components() {
    let listed = [package_of(HELLO), component()];
    let (package, _) = package(&listed).unwrap();
    let upload = check(&of(&listed), package, "margo.yaml", HELLO.into()).unwrap();
    assert_eq!(upload.lock, BTreeMap::from([("hello".parse().unwrap(), component().digest)]));
    assert_eq!(upload.manifests.len(), 2);
    assert_eq!(upload.digest, package_of(HELLO).digest);
}

#[test]
fn app_02_there_is_exactly_one_package_of_the_right_form() {
    assert!(refusal(HELLO, &[component()]).contains("exactly one manifest must have artifactType"));
    assert!(refusal(HELLO, &[package_of(HELLO), package_of(HELLO)]).contains("not 2"));

    let mut with_config = package_of(HELLO);
    with_config.manifest.config = Descriptor::of("application/json", b"{\"a\":1}");
    assert!(refusal(HELLO, &[with_config, component()]).contains("config must be the empty one"));

    let mut two_descriptions = package_of(HELLO);
    two_descriptions.manifest.layers.push(Descriptor::of(media::DESCRIPTION, b"another"));
    assert!(refusal(HELLO, &[two_descriptions, component()]).contains("exactly one layer must be"));

    for wrong in ["hello:1.0.1", "other:1.0.0"] {
        let package = listed(wrong, package_of(HELLO).manifest);
        let refusal = refusal(HELLO, &[package, component()]);
        assert!(refusal.contains("make it hello:1.0.0"), "{refusal}");
    }
}

#[test]
fn a_description_is_refused_with_file_line_column_and_field() {
    let text = HELLO.replace("type: custom", "type: magic");
    let listed = [package_of(&text), component()];
    let (package, _) = package(&listed).unwrap();
    let problem = check(&of(&listed), package, "margo.yaml", text.into()).unwrap_err().problem();
    assert_eq!(problem.status, 422);
    let [error] = &problem.errors[..] else { panic!("{problem:?}") };
    assert_eq!(error.field, "deploymentProfiles[0].type");
    assert!(error.message.starts_with("margo.yaml:11:11: "), "{error:?}");
}

#[test]
fn every_component_must_be_in_the_upload_as_what_it_is() {
    assert!(refusal(HELLO, &[package_of(HELLO)]).contains("hello:1.0.0 is not in the upload"));

    let foreign = HELLO.replace("oci://edgewright.local/hello", "oci://ghcr.io/hello");
    let told = refusal(&foreign, &[package_of(&foreign), component()]);
    assert!(told.contains("deploymentProfiles[0].components[0].properties.repository"), "{told}");

    let helm = HELLO.replace("type: custom", "type: helm");
    assert!(refusal(&helm, &[package_of(&helm)]).contains("is not in the upload"));

    let mut two_layers = component();
    two_layers.manifest.layers.push(Descriptor::of(media::WASM, b"more"));
    assert!(refusal(HELLO, &[package_of(HELLO), two_layers]).contains("exactly one layer"));
    let other_type = listed("hello:1.0.0", ArtifactManifest::artifact("application/x", component().manifest.layers));
    assert!(refusal(HELLO, &[package_of(HELLO), other_type]).contains("must have artifactType"));

    let unused = listed("other:1.0.0", component().manifest);
    assert!(
        refusal(HELLO, &[package_of(HELLO), component(), unused]).contains("no component of margo.yaml is other:1.0.0")
    );
    assert!(refusal(HELLO, &[package_of(HELLO), component(), component()]).contains("is listed twice"));
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let text = HELLO.replace("revision: 1.0.0", "revision: 2.0.0");
    let told = refusal(&text, &[listed("hello:3.0.0", package_of(&text).manifest), component()]);
    for part in ["make it hello:1.0.0", "hello:2.0.0 is not in the upload", "no component of margo.yaml is hello:1.0.0"]
    {
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn a_manifest_in_the_index_has_a_name_and_a_kind() {
    let good = Descriptor::of(media::MANIFEST, b"{}").annotated(media::REF_NAME, "hello:1.0.0");
    assert_eq!(reference(&good).unwrap().to_string(), "hello:1.0.0");
    for bad in [
        Descriptor::of(media::MANIFEST, b"{}"),
        Descriptor::of(media::INDEX, b"{}").annotated(media::REF_NAME, "hello:1.0.0"),
        Descriptor::of(media::MANIFEST, b"{}").annotated(media::REF_NAME, "../hello"),
    ] {
        assert!(reference(&bad).is_err(), "{bad:?}");
    }
}

/// An upload with one Compose component, whose file has this rest in its service, and these images.
fn compose_upload(rest: &str, images: &[(&str, &str)]) -> Result<Upload, String> {
    let text =
        HELLO.replace("type: custom", "type: compose").replace("    x-edgewright-extensions: { runtime: wasm }\n", "");
    let archive = Descriptor::of(media::COMPOSE, b"archive");
    let component = listed("hello:1.0.0", ArtifactManifest::artifact(media::COMPOSE_ARTIFACT, vec![archive]));
    let file = format!("services: {{ web: {{ image: 'web:1', environment: {{ G: '${{GREETING:?}}' }}, {rest} }} }}");
    let file = ComposeFile::parse(&file).unwrap();
    let locked = |words: &str| LockedImage { manifest: Digest::of(words.as_bytes()), id: Digest::of(b"id") };
    let image = |(name, platform): &(&str, &str)| ListedImage {
        name: (*name).to_owned(),
        platform: (*platform).to_owned(),
        locked: locked(platform),
    };
    let contents = Contents {
        archives: BTreeMap::from([(component.digest, ListedArchive { file, files: BTreeSet::new() })]),
        listed: vec![package_of(&text), component],
        images: images.iter().map(image).collect(),
    };
    let (package, _) = package(&contents.listed).unwrap();
    check(&contents, package, "margo.yaml", text.into()).map_err(|error| error.problem().to_string())
}

#[test]
fn wfm_33_a_compose_archive_is_checked_and_locked_to_its_images() {
    let upload = compose_upload("init: true", &[("web:1", "linux/amd64"), ("web:1", "linux/arm64")]).unwrap();
    let images = &upload.images[&"hello".parse().unwrap()]["web:1"];
    assert_eq!(images.keys().collect::<Vec<_>>(), ["linux/amd64", "linux/arm64"]);
    assert_eq!(images["linux/arm64"].manifest, Digest::of(b"linux/arm64"));
    // Each is kept in the repository of the component, where the node asks for it.
    assert!(upload.manifests.contains(&("hello".parse().unwrap(), Digest::of(b"linux/amd64"))));
    assert_eq!(upload.manifests.len(), 4);
    for (rest, images, told) in [
        ("privileged: true", &[("web:1", "linux/amd64")][..], "services.web.privileged"),
        ("init: true", &[], "which is not in the upload"),
        (
            "init: true",
            &[("web:1", "linux/amd64"), ("other:1", "linux/amd64")],
            "no component of margo.yaml runs image",
        ),
    ] {
        let refused = compose_upload(rest, images).unwrap_err();
        assert!(refused.contains(told), "{refused}");
    }
}
