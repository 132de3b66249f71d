//! A client that is told what it may not do.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use bus::Login;
use testkit::{credentials, wait_for};

/// How many subjects are tried at once. The client drops refusals when there are too many of them.
const CHUNK: usize = 64;

/// A client that notes what the server refuses.
pub struct Client {
    pub client: async_nats::Client,
    pub refused: Arc<Mutex<Vec<String>>>,
    probes: AtomicUsize,
}

impl Client {
    pub async fn connect(login: &Login) -> Self {
        let refused = Arc::new(Mutex::new(Vec::new()));
        let notes = refused.clone();
        let client = async_nats::ConnectOptions::with_credentials(&credentials(login))
            .unwrap()
            .custom_inbox_prefix(login.user.inbox_prefix())
            .event_callback(move |event| {
                if let async_nats::Event::ServerError(error) = event {
                    notes.lock().unwrap().push(error.to_string().to_lowercase());
                }
                std::future::ready(())
            })
            .connect(&login.url)
            .await
            .unwrap();
        Self { client, refused, probes: AtomicUsize::new(0) }
    }

    /// Waits until the server has said everything about what was sent. It answers in order, so that is when it has refused a
    /// subject that nobody may use.
    pub async fn hear_refusals(&self) {
        let probe = format!("nobody.may.{}", self.probes.fetch_add(1, Ordering::SeqCst));
        self.client.publish(probe.clone(), "".into()).await.unwrap();
        self.client.flush().await.unwrap();
        wait_for("the server to refuse the probe", async || {
            let refused = self.refused.lock().unwrap();
            if refused.iter().any(|text| text.contains(&format!("\"{probe}\""))) {
                Ok(())
            } else {
                Err(refused.clone())
            }
        })
        .await;
    }

    /// Which of these subjects the server lets it publish, in their order.
    pub async fn publishable(&self, subjects: &[String]) -> Vec<String> {
        let mut open = Vec::new();
        for subjects in subjects.chunks(CHUNK) {
            for subject in subjects {
                self.client.publish(subject.clone(), "{".into()).await.unwrap();
            }
            open.extend(self.not_refused("publish", subjects).await);
        }
        open
    }

    /// Which of these subjects the server lets it subscribe, in their order.
    pub async fn subscribable(&self, subjects: &[String]) -> Vec<String> {
        let mut open = Vec::new();
        for subjects in subjects.chunks(CHUNK) {
            let mut subscriptions = Vec::new();
            for subject in subjects {
                subscriptions.push(self.client.subscribe(subject.clone()).await.unwrap());
            }
            open.extend(self.not_refused("subscription", subjects).await);
        }
        open
    }

    async fn not_refused(&self, direction: &str, subjects: &[String]) -> Vec<String> {
        self.hear_refusals().await;
        let refused = self.refused.lock().unwrap();
        let is_refused = |subject: &String| {
            let words = format!("{direction} to \"{}\"", subject.to_lowercase());
            refused.iter().any(|text| text.contains(&words))
        };
        subjects.iter().filter(|subject| !is_refused(subject)).cloned().collect()
    }
}
