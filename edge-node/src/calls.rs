//! Calls that the hub makes through the site, and their answers: is the node there, what did a workload write last, restart it,
//! try again what failed.

use std::{sync::Arc, time::Duration};

use bus::{
    Bus, CallVerb, Pattern, Subject,
    calls::{self, About, MAX_PART},
    proto::CallPart,
};
use futures::StreamExt;
use margo::NodeId;
use process::chain;
use runtime::{Runtime, RuntimeError, WorkloadId};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::operation::{Deed, Operation};

/// Calls that are answered at once. One more is not heard, and whoever made it asks again.
const AT_ONCE: usize = 4;

/// Lines of a log in one answer, whatever is asked for: more than a person reads.
const MAX_LINES: u32 = 1_000;

/// Bytes of a log in one answer; the oldest lines give way.
const MAX_LOG: usize = 2 * MAX_PART;

/// How long a runtime may take to read a log, and a restart to be under way. Whoever called waits hardly longer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Answers calls.
pub struct Calls {
    pub bus: Bus,
    pub node: NodeId,
    /// Who has the logs.
    pub runtimes: Vec<Arc<dyn Runtime>>,
    /// Where operations go.
    pub operations: mpsc::Sender<Operation>,
}

impl Calls {
    /// Answers calls until shutdown.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let calls = Arc::new(self);
        let mut heard = calls.bus.subscribe(Pattern::CallsTo(calls.node.clone())).await?;
        let mut answers = JoinSet::new();
        while let Some(Some(message)) = shutdown.run_until_cancelled(heard.next()).await {
            while answers.try_join_next().is_some() {}
            let (Ok(Subject::Call(named, verb)), Some((id, about))) =
                (message.subject.parse(), calls::read(&message.payload))
            else {
                continue;
            };
            if named != calls.node || answers.len() >= AT_ONCE {
                continue;
            }
            info!(call = %id, %verb, "called");
            let calls = calls.clone();
            answers.spawn(async move {
                let parts = calls.answer(verb, about).await;
                calls::answer(&calls.bus, &calls.node, &id, parts).await;
            });
        }
        Ok(())
    }

    async fn answer(&self, verb: CallVerb, about: About) -> Vec<CallPart> {
        let answered = match verb {
            CallVerb::Ping => Ok(String::new()),
            CallVerb::Logs => self.logs(about).await,
            CallVerb::Restart => self.operate(Deed::Restart, about).await,
            CallVerb::Retry => self.operate(Deed::Retry, about).await,
        };
        parts(answered)
    }

    async fn logs(&self, about: About) -> Result<String, String> {
        let (Some(deployment), Some(component)) = (about.deployment, about.component) else {
            return Err("the call names no component".to_owned());
        };
        let id = WorkloadId { deployment, component };
        for runtime in &self.runtimes {
            let asked = timeout(PATIENCE, runtime.logs(id.clone(), about.lines.min(MAX_LINES) as usize)).await;
            match asked {
                Ok(Ok(lines)) => return Ok(last_of(&lines)),
                Ok(Err(RuntimeError::Absent(_))) => {}
                Ok(Err(error)) => return Err(chain(&error)),
                Err(_elapsed) => return Err(format!("the log was not read within {PATIENCE:?}")),
            }
        }
        Err("nothing of it runs here".to_owned())
    }

    async fn operate(&self, deed: Deed, about: About) -> Result<String, String> {
        let deployment = about.deployment.ok_or("the call names no deployment")?;
        let (done, result) = oneshot::channel();
        let operation = Operation { deed, deployment, component: about.component, actor: about.actor, done };
        let ending = || "the agent is ending".to_owned();
        self.operations.send(operation).await.map_err(|_closed| ending())?;
        match timeout(PATIENCE, result).await {
            Ok(result) => result.map_err(|_dropped| ending())?.map(|()| String::new()),
            Err(_elapsed) => Err(format!("it is not done within {PATIENCE:?}; it may be done later")),
        }
    }
}

/// The last lines that fit into an answer, each with its end.
fn last_of(lines: &[String]) -> String {
    let mut bytes = 0;
    let fits = |line: &&String| {
        bytes += line.len() + 1;
        bytes <= MAX_LOG
    };
    let count = lines.iter().rev().take_while(fits).count();
    lines[lines.len() - count..].iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

/// An answer in parts, the last of which says so.
fn parts(answered: Result<String, String>) -> Vec<CallPart> {
    let (text, failed) = match answered {
        Ok(text) => (text, String::new()),
        Err(reason) => (String::new(), reason),
    };
    let mut bodies: Vec<&[u8]> = text.as_bytes().chunks(MAX_PART).collect();
    if bodies.is_empty() {
        bodies.push(b"");
    }
    let last = bodies.len() - 1;
    let part = |(at, body): (usize, &[u8])| CallPart {
        number: u32::try_from(at).unwrap_or(u32::MAX),
        last: at == last,
        body: body.to_vec().into(),
        failed: failed.clone(),
    };
    bodies.into_iter().enumerate().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_loses_its_oldest_lines_and_goes_in_parts() {
        let lines: Vec<_> = (0..1_000).map(|number| format!("{number} {}", "x".repeat(1_000))).collect();
        let text = last_of(&lines);
        assert!(text.len() <= MAX_LOG && text.len() > MAX_LOG - 1_100, "{}", text.len());
        assert!(text.ends_with(&format!("{}\n", lines[999])));
        let parts = parts(Ok(text.clone()));
        assert!(parts.iter().all(|part| part.body.len() <= MAX_PART));
        let last: Vec<_> = parts.iter().map(|part| (part.number, part.last)).collect();
        assert_eq!(last, [(0, false), (1, true)]);
        let whole: Vec<u8> = parts.iter().flat_map(|part| part.body.to_vec()).collect();
        assert_eq!(whole, text.into_bytes());
    }

    #[test]
    fn an_answer_without_content_is_one_part() {
        assert_eq!(parts(Ok(String::new())), [CallPart { last: true, ..CallPart::default() }]);
        let failed = parts(Err("nothing runs".to_owned()));
        assert_eq!((failed.len(), failed[0].last, failed[0].failed.as_str()), (1, true, "nothing runs"));
    }
}
