//! What becomes of one batch of messages: all are decoded, stored in one transaction, and then answered.

use std::{error::Error, sync::LazyLock};

use anyhow::Context;
use async_nats::jetstream::Message;
use bus::{terminate, trace};
use prometheus::{IntCounter, IntCounterVec, register_int_counter, register_int_counter_vec};
use tracing::{info_span, warn};

use crate::{decode::decode, domain::Report, store::Store};

static MESSAGES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let name = "edgewright_status_collector_messages_total";
    register_int_counter_vec!(name, "Messages taken from STATE and EVENTS", &["outcome"]).expect("registered only here")
});

static LOST: LazyLock<IntCounter> = LazyLock::new(|| {
    let name = "edgewright_status_collector_lost_transitions_total";
    register_int_counter!(name, "Transitions that nodes dropped because their spool was full")
        .expect("registered only here")
});

/// Stores the reports among `messages`, then acknowledges them; malformed ones go to the dead letters. When this fails,
/// every message that is not yet acknowledged comes again.
pub async fn handle(store: &Store, messages: Vec<Message>) -> anyhow::Result<()> {
    let (mut statuses, mut events, mut answers) = (Vec::new(), Vec::new(), Vec::with_capacity(messages.len()));
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
                    span.in_scope(|| warn!(%node, lost = report.lost, "the node dropped transitions"));
                    LOST.inc_by(report.lost);
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
    store.record(statuses, &events).await.context("storing reports")?;
    for (message, malformed, _span) in answers {
        match malformed {
            None => {
                message.ack().await.map_err(anyhow::Error::from_boxed).context("acknowledging a report")?;
                MESSAGES.with_label_values(&["stored"]).inc();
            }
            Some(malformed) => {
                terminate(&message, &malformed).await?;
                MESSAGES.with_label_values(&["malformed"]).inc();
            }
        }
    }
    Ok(())
}
