//! Looks at the runtimes, each by a task of its own: one that does not answer holds up nobody.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use process::chain;
use runtime::{Observed, Runtime, WorkloadId};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use crate::{decide::Blindness, retry};

/// A lost signal costs no more than this.
const TIMER: Duration = Duration::from_secs(30);

/// Listing hundreds of containers takes a loaded engine seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was seen at the last look at one runtime.
#[derive(Clone)]
pub struct View {
    /// When that look began; `None` before the first one has ended, which is soon also where nothing answers. Only what was done
    /// before then is in it.
    pub began: Option<Instant>,
    /// Why nothing was seen, if so.
    pub blindness: Option<Blindness>,
    /// What was seen at the last look that succeeded.
    pub found: BTreeMap<WorkloadId, Observed>,
}

/// One task for each runtime, and what it saw last.
pub struct Observers {
    views: BTreeMap<&'static str, watch::Receiver<View>>,
    asked: BTreeMap<&'static str, Arc<Notify>>,
    news: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Observers {
    /// Starts to look at these runtimes. The tasks end with the value.
    pub fn start<'a>(runtimes: impl Iterator<Item = &'a Arc<dyn Runtime>>) -> Self {
        let news = Arc::new(Notify::new());
        let (mut views, mut asked, mut tasks) = (BTreeMap::new(), BTreeMap::new(), JoinSet::new());
        for runtime in runtimes {
            let view = View { began: None, blindness: Some(Blindness::NotLookedYet), found: BTreeMap::new() };
            let (sender, receiver) = watch::channel(view);
            let ask = Arc::new(Notify::new());
            views.insert(runtime.name(), receiver);
            asked.insert(runtime.name(), ask.clone());
            tasks.spawn(observe(runtime.clone(), sender, ask, news.clone()));
        }
        Self { views, asked, news, _tasks: tasks }
    }

    /// Waits until there is a new view. Cancel-safe.
    pub async fn changed(&self) {
        self.news.notified().await;
    }

    /// Has a runtime looked at soon.
    pub fn ask(&self, runtime: &str) {
        if let Some(asked) = self.asked.get(runtime) {
            asked.notify_one();
        }
    }

    /// Returns the last view of every runtime, by name.
    pub fn views(&self) -> impl Iterator<Item = (&'static str, View)> {
        self.views.iter().map(|(name, view)| (*name, view.borrow().clone()))
    }

    /// Whether each runtime was looked at, or could not be: until then, what an earlier life of the agent left is not known.
    pub fn have_looked(&self) -> bool {
        self.views.values().all(|view| view.borrow().began.is_some())
    }

    /// Whether everything done before `then` is in the view of this runtime, or the runtime cannot be observed, so that
    /// nothing is done there anyway.
    pub fn has_looked_since(&self, runtime: &str, then: Instant) -> bool {
        self.views.get(runtime).is_none_or(|view| view.borrow().began.is_some_and(|began| began >= then))
    }
}

async fn observe(runtime: Arc<dyn Runtime>, sender: watch::Sender<View>, asked: Arc<Notify>, news: Arc<Notify>) {
    let changed = runtime.changed();
    let mut backoff = retry::SITE;
    loop {
        let began = Instant::now();
        let looked = match timeout(PATIENCE, runtime.observe()).await {
            Ok(Ok(observed)) => Ok(observed),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_elapsed) => Err(format!("no answer within {PATIENCE:?}")),
        };
        let pause = match looked {
            Ok(observed) => {
                if matches!(sender.borrow().blindness, Some(Blindness::Failed(_))) {
                    info!(runtime = runtime.name(), "observed again");
                }
                let found = observed.into_iter().map(|observed| (observed.id.clone(), observed)).collect();
                sender.send_replace(View { began: Some(began), blindness: None, found });
                backoff = retry::SITE;
                TIMER
            }
            Err(reason) => {
                warn!(runtime = runtime.name(), reason, "not observed; what it runs is left alone");
                sender.send_modify(|view| {
                    view.began = Some(began);
                    view.blindness = Some(Blindness::Failed(reason));
                });
                backoff.pause()
            }
        };
        news.notify_one();
        tokio::select! {
            () = changed.notified() => {}
            () = asked.notified() => {}
            () = sleep(pause) => {}
        }
    }
}
