//! Whose window is in work: of each site one, in order. A window that comes again joins the one in work, or gets the answer
//! that it had. There is no bus here and no clock.

use std::collections::HashMap;

use bus::report::WindowHead;
use bytes::Bytes;
use margo::ClientName;

/// What becomes of a window that has come. `A` is the request that waits for the answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<A> {
    /// It is this window's turn: the caller works on it, and says so with [`Turns::done`].
    Work,
    /// It waits: for the answer to the same window, or for its turn after another one.
    Waits,
    /// It was answered before; this is the answer.
    Again(A, Bytes),
    /// A later window of the same session was answered already, so nobody waits for this one.
    Late,
}

/// What there is to do after a window of a site was worked on.
#[derive(Debug, PartialEq, Eq)]
pub struct Done<A> {
    /// Whoever asked for this window last. It is to be answered.
    pub ask: A,
    /// Whether another window of this site has its turn now; [`Turns::in_work`] shows it.
    pub next: bool,
}

struct OfSite<A> {
    /// The window in work, and who is answered: whoever asked for it last.
    work: Option<(WindowHead, A)>,
    /// The window after it, the newest that came.
    next: Option<(WindowHead, A)>,
    answered: Option<(WindowHead, Bytes)>,
}

/// The windows of all sites.
pub struct Turns<A> {
    sites: HashMap<ClientName, OfSite<A>>,
}

impl<A> Turns<A> {
    pub fn new() -> Self {
        Self { sites: HashMap::new() }
    }

    /// Takes a window that has come.
    pub fn offer(&mut self, client: &ClientName, head: WindowHead, ask: A) -> Turn<A> {
        let new = || OfSite { work: None, next: None, answered: None };
        let site = self.sites.entry(client.clone()).or_insert_with(new);
        if let Some((answered, answer)) = &site.answered
            && answered.session == head.session
        {
            if head.number == answered.number {
                return Turn::Again(ask, answer.clone());
            }
            if head.number < answered.number {
                return Turn::Late;
            }
        }
        match &mut site.work {
            None => {
                site.work = Some((head, ask));
                return Turn::Work;
            }
            Some((work, waiting)) if *work == head => *waiting = ask,
            Some(_) => site.next = Some((head, ask)),
        }
        Turn::Waits
    }

    /// The window of this site that is in work.
    pub fn in_work(&self, client: &ClientName) -> Option<&A> {
        self.sites.get(client)?.work.as_ref().map(|(_, ask)| ask)
    }

    /// Notes the answer to the window of this site that is in work. It is kept for whoever asks again.
    pub fn done(&mut self, client: &ClientName, answer: Bytes) -> Option<Done<A>> {
        let site = self.sites.get_mut(client)?;
        let (head, ask) = site.work.take()?;
        site.answered = Some((head, answer));
        site.work = site.next.take();
        Some(Done { ask, next: site.work.is_some() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plant() -> ClientName {
        "plant".parse().unwrap()
    }

    fn head(session: &str, number: u64) -> WindowHead {
        WindowHead { session: session.into(), number }
    }

    #[test]
    fn a_window_that_comes_again_joins_the_one_in_work_or_gets_its_answer() {
        let mut turns = Turns::new();
        assert_eq!(turns.offer(&plant(), head("a", 1), "first"), Turn::Work);
        assert_eq!(turns.offer(&plant(), head("a", 1), "again"), Turn::Waits);
        assert_eq!(turns.done(&plant(), "stored".into()), Some(Done { ask: "again", next: false }));
        assert_eq!(turns.offer(&plant(), head("a", 1), "late"), Turn::Again("late", "stored".into()));
        assert_eq!(turns.done(&plant(), "never".into()), None);
    }

    #[test]
    fn windows_of_a_site_are_worked_on_one_after_another() {
        let mut turns = Turns::new();
        assert_eq!(turns.offer(&plant(), head("a", 1), "a1"), Turn::Work);
        // The site's orchestrator was started anew, and waits for its turn.
        assert_eq!(turns.offer(&plant(), head("b", 1), "b1"), Turn::Waits);
        assert_eq!(turns.offer(&"other".parse().unwrap(), head("a", 1), "o1"), Turn::Work);
        assert_eq!(turns.done(&plant(), "1".into()), Some(Done { ask: "a1", next: true }));
        assert_eq!(turns.in_work(&plant()), Some(&"b1"));
        assert_eq!(turns.done(&plant(), "2".into()), Some(Done { ask: "b1", next: false }));
        assert_eq!(turns.in_work(&plant()), None);
    }

    #[test]
    fn a_window_that_was_overtaken_is_not_worked_on() {
        let mut turns = Turns::new();
        turns.offer(&plant(), head("a", 8), "a8");
        turns.done(&plant(), "8".into());
        assert_eq!(turns.offer(&plant(), head("a", 7), "a7"), Turn::Late);
        assert_eq!(turns.offer(&plant(), head("a", 9), "a9"), Turn::Work);
    }
}
