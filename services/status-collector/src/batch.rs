//! What becomes of one batch of messages: all are decoded, stored in one transaction, and then answered.

use std::{
    error::Error,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use async_nats::jetstream::Message;
use bus::{terminate, trace};
use tracing::{info_span, warn};

use crate::{
    decode::decode,
    domain::Report,
    metrics,
    store::{Copied, Store},
};

/// Stores the reports among `messages`, then acknowledges them; malformed ones go to the dead letters. When this fails,
/// every message that is not yet acknowledged comes again. `ids` are the identities of the streams.
pub async fn handle(store: &Store, messages: Vec<Message>, ids: &[(&'static str, String)]) -> anyhow::Result<()> {
    let copies = copies(&messages, ids);
    let (mut statuses, mut events, mut answers) = (Vec::new(), Vec::new(), Vec::with_capacity(messages.len()));
    let mut lost = None;
    for message in messages {
        // The span lives until the message is answered, so the trace shows when a report could be read.
        let span = info_span!("status", subject = %message.subject, trace_id = tracing::field::Empty);
        trace::continue_from(&span, message.headers.as_ref());
        let malformed = match decode(&message.subject, &message.payload) {
            Ok(Report::Status(node, status)) => {
                statuses.push((node, status));
                None
            }
            Ok(Report::Events(node, report)) => {
                if report.lost > 0 {
                    lost.get_or_insert_with(|| (node.clone(), report.lost));
                    metrics::LOST.inc_by(report.lost);
                }
                events.push((node, report));
                None
            }
            Err(malformed) => {
                span.in_scope(|| warn!(error = &malformed as &dyn Error, "report refused"));
                Some(malformed)
            }
        };
        answers.push((message, malformed, span));
    }
    if let Some((node, lost)) = lost
        && is_news()
    {
        warn!(%node, lost, "this node, and maybe others, dropped transitions");
    }
    store.record(statuses, &events, &copies).await.context("storing reports")?;
    for (message, malformed, _span) in answers {
        match malformed {
            None => {
                message.ack().await.map_err(anyhow::Error::from_boxed).context("acknowledging a report")?;
                metrics::MESSAGES.with_label_values(&["stored"]).inc();
            }
            Some(malformed) => {
                terminate(&message, &malformed).await?;
                metrics::MESSAGES.with_label_values(&["malformed"]).inc();
            }
        }
    }
    Ok(())
}

/// Whether a minute has passed since people were told of lost transitions. Nodes may say so in each of their messages, and a log
/// with a line for each of these would fill the hub's disk.
fn is_news() -> bool {
    static TOLD: Mutex<Option<Instant>> = Mutex::new(None);
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let news = told.is_none_or(|at| at.elapsed() >= Duration::from_secs(60));
    if news {
        *told = Some(Instant::now());
    }
    news
}

/// How far each stream was read for these messages, malformed ones included.
fn copies(messages: &[Message], ids: &[(&'static str, String)]) -> Vec<Copied> {
    let sequences = |stream: &str| {
        let places = messages.iter().filter_map(|message| message.info().ok());
        places.filter(|info| info.stream == stream).map(|info| info.stream_sequence).max()
    };
    let copied =
        |(stream, id): &(&'static str, String)| Some(Copied { stream, id: id.clone(), sequence: sequences(stream)? });
    ids.iter().filter_map(copied).collect()
}
