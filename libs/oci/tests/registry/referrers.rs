//! What refers to a manifest.

use axum::{
    Json,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue},
    response::IntoResponse,
    routing::get,
};
use serde_json::{Value, json};

use super::*;

const SIGNATURE: &str = "application/vnd.example.signature";

fn listed(number: u8, artifact_type: &str) -> Descriptor {
    let artifact_type = Some(artifact_type.to_owned());
    Descriptor { artifact_type, ..Descriptor::new(media::MANIFEST, Digest::of(&[number]), 1) }
}

fn index(manifests: &[Descriptor]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": manifests })
}

#[tokio::test]
async fn a_registry_without_the_question_has_the_answer_under_a_tag() {
    let registry = DockerRegistry::start().await;
    let image = push(&registry, "app", &[10], None).await;
    let client = Client::of_registry(&registry.url(), None, None, None).unwrap();
    assert_eq!(client.referrers(&image.name, &image.manifest, None).await.unwrap(), []);

    // The registry takes an index only when it has what the index names.
    let (one, two) = (push(&registry, "app", &[11], None).await, push(&registry, "app", &[12], None).await);
    let described = |image: &Image, kind: &str| Descriptor { digest: image.manifest, ..listed(0, kind) };
    let listed = [described(&one, SIGNATURE), described(&two, "application/vnd.example.parts")];
    let tag = format!("sha256-{}", image.manifest.hex());
    let bytes = serde_json::to_vec(&index(&listed)).unwrap();
    registry.push_manifest("app", Some(&tag), media::INDEX, &bytes, None).await;
    assert_eq!(client.referrers(&image.name, &image.manifest, None).await.unwrap(), listed);
    assert_eq!(client.referrers(&image.name, &image.manifest, Some(SIGNATURE)).await.unwrap(), listed[..1]);
}

#[tokio::test]
async fn the_pages_of_an_answer_are_read_up_to_a_limit() {
    #[derive(serde::Deserialize)]
    struct Asked {
        #[serde(rename = "artifactType")]
        artifact_type: Option<String>,
        page: Option<u8>,
    }
    // The last page; beyond it nothing follows.
    let pages = async |State(last): State<u8>, Query(asked): Query<Asked>| {
        let page = asked.page.unwrap_or(1);
        assert!(page > 1 || asked.artifact_type.as_deref() == Some(SIGNATURE));
        let mut headers = HeaderMap::new();
        if page < last {
            let link = format!("<?page={}>; rel=\"next\"", page + 1);
            headers.insert("link", HeaderValue::try_from(link).unwrap());
        }
        (headers, Json(index(&[listed(page, SIGNATURE), listed(page, "other")]))).into_response()
    };
    for (last, read) in [(1, 1), (3, 3), (200, 10)] {
        let router = Router::new().route("/v2/app/referrers/{digest}", get(pages)).with_state(last);
        let client = Client::of_registry(&format!("http://{}", serve(router).await), None, None, None).unwrap();
        let found = client.referrers(&"app".parse().unwrap(), &Digest::of(b"x"), Some(SIGNATURE)).await.unwrap();
        assert_eq!(found, (1..=read).map(|page| listed(page, SIGNATURE)).collect::<Vec<_>>());
    }
}
