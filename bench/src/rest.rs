//! The REST interface as a measuring client uses it.

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use end_to_end::Platform;
use margo::UserNkey;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// A client of the hub's REST interface, with the token of an admin. Every answer but the expected one is an error.
#[derive(Clone)]
pub struct Rest {
    client: Client,
    base: String,
    token: Arc<str>,
}

#[derive(Clone)]
pub enum Targets {
    Nodes(Vec<String>),
    Sites(Vec<String>),
}

/// An assignment of the sample application or of one like it.
#[derive(Clone)]
pub struct Wish {
    pub app: String,
    pub greeting: String,
    pub targets: Targets,
}

impl Wish {
    fn body(&self) -> Value {
        let targets = match &self.targets {
            Targets::Nodes(nodes) => json!({ "nodes": nodes }),
            Targets::Sites(sites) => json!({ "sites": sites }),
        };
        json!({
            "app": { "id": self.app, "version": "1.0.0" },
            "parameters": { "greeting": self.greeting },
            "targets": targets,
        })
    }
}

impl Rest {
    /// A client of a platform, with the admin's token.
    pub fn of(platform: &Platform) -> Self {
        Self { client: Client::new(), base: platform.api(), token: platform.token().into() }
    }

    fn with_token(&self, request: RequestBuilder) -> RequestBuilder {
        request.bearer_auth(&self.token)
    }

    async fn send(request: RequestBuilder, wanted: StatusCode, what: &str) -> anyhow::Result<Response> {
        let answer = request.send().await.with_context(|| what.to_owned())?;
        if answer.status() != wanted {
            bail!("{what} was answered {}: {}", answer.status(), answer.text().await.unwrap_or_default());
        }
        Ok(answer)
    }

    async fn get(&self, path: &str) -> anyhow::Result<Response> {
        let request = self.with_token(self.client.get(format!("{}{path}", self.base)));
        Self::send(request, StatusCode::OK, &format!("GET {path}")).await
    }

    /// A list, such as `/nodes`.
    pub async fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        self.get(path).await?.json().await.with_context(|| format!("reading the answer to GET {path}"))
    }

    /// The ETag of an assignment, and how long the answer took.
    pub async fn etag(&self, name: &str) -> anyhow::Result<(String, Duration)> {
        let begin = Instant::now();
        let answer = self.get(&format!("/assignments/{name}")).await?;
        let took = begin.elapsed();
        let etag = answer.headers().get("etag").context("an assignment is answered with its ETag")?;
        Ok((etag.to_str().context("an ETag is text")?.to_owned(), took))
    }

    /// Creates an assignment. Fails unless the gateway answers 202.
    pub async fn create(&self, name: &str, wish: &Wish) -> anyhow::Result<()> {
        let mut body = wish.body();
        body["name"] = name.into();
        let request = self.with_token(self.client.post(format!("{}/assignments", self.base))).json(&body);
        Self::send(request, StatusCode::ACCEPTED, &format!("creating assignment {name}")).await?;
        Ok(())
    }

    /// Updates an assignment from the revision that the ETag names.
    pub async fn update(&self, name: &str, etag: &str, wish: &Wish) -> anyhow::Result<()> {
        let request = self.client.put(format!("{}/assignments/{name}", self.base)).header("if-match", etag);
        let request = self.with_token(request).json(&wish.body());
        Self::send(request, StatusCode::ACCEPTED, &format!("updating assignment {name}")).await?;
        Ok(())
    }

    /// Adds a site that was not there before, without certificates of its own.
    pub async fn add_site(&self, name: &str, key: &UserNkey) -> anyhow::Result<()> {
        let body = json!({ "name": name, "identity": { "nkey": key } });
        let request = self.with_token(self.client.post(format!("{}/sites", self.base))).json(&body);
        Self::send(request, StatusCode::CREATED, &format!("adding site {name}")).await?;
        Ok(())
    }

    /// Adds a node that was not there before. The name is `site/node`.
    pub async fn add_node(&self, name: &str, key: &UserNkey) -> anyhow::Result<()> {
        let body = json!({ "name": name, "identity": { "nkey": key } });
        let request = self.with_token(self.client.post(format!("{}/nodes", self.base))).json(&body);
        Self::send(request, StatusCode::CREATED, &format!("adding node {name}")).await?;
        Ok(())
    }

    /// Waits until so many deployments are there, and each one is installed as wanted. `query` selects among them.
    pub async fn installed(
        &self,
        query: &str,
        count: usize,
        pause: Duration,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let begin = Instant::now();
        loop {
            let deployments = self.list(&format!("/deployments{query}")).await?;
            let installed = deployments.iter().filter(|deployment| deployment["state"] == "installed").count();
            if installed == count && deployments.len() == count {
                return Ok(());
            }
            ensure!(
                begin.elapsed() < patience,
                "{installed} of {} deployments are installed after {patience:?}, not {count}",
                deployments.len(),
            );
            sleep(pause).await;
        }
    }
}

/// Does something for each number below `count`, by so many clients at once; the first failure ends all.
pub async fn by_clients<F, Fut>(clients: usize, count: usize, job: F) -> anyhow::Result<()>
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send,
{
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let job = job.clone();
        tasks.spawn(async move {
            for number in (client..count).step_by(clients) {
                job(number).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client died")??;
    }
    Ok(())
}
