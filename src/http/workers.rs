//! The threads that requests run on.
//!
//! A few *lead*: they take what is ready from the lobby and see it through, and nobody else has to be woken for it. A
//! leader that is about to wait for long, for a slow server, a slow client, the disk or a password hash, steps aside
//! first, so that another leads in its place. So fast requests run on few threads, which the system schedules well, and
//! slow ones on as many as there are.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::blocking;

/// Stack of a worker: pages that are not touched cost nothing.
const STACK: usize = 256 << 10;
/// A worker that had nothing to do for so long goes, unless it is the last that leads.
pub(super) const IDLE: Duration = Duration::from_secs(10);

/// Leaders for each core, and as many again.
const LEADERS: usize = 2;

/// All of them.
pub(super) struct Workers {
    /// Threads at one time, but for those that are busy with a stream.
    most: usize,
    most_leaders: usize,
    run: Box<dyn Fn() -> Outcome + Send + Sync>,
    counts: Mutex<Counts>,
    vacancy: Condvar,
}

/// What came of a leader's turn.
pub(super) enum Outcome {
    /// Something was done.
    Worked,
    /// There was nothing to do for [`IDLE`].
    Quiet,
    /// There will be nothing to do any more.
    End,
}

#[derive(Default)]
struct Counts {
    /// Threads that are not busy with a stream.
    present: usize,
    leaders: usize,
    /// Leaders that have found something to do.
    busy: usize,
    /// Threads that wait until they may lead, and how many of them have been told to.
    spare: usize,
    called: usize,
}

impl Workers {
    /// Up to `most` threads that call `run`, which takes one thing from the lobby and sees it through; none yet.
    pub(super) fn new(most: usize, run: impl Fn() -> Outcome + Send + Sync + 'static) -> Arc<Workers> {
        // Enough to keep each core busy while some wait for a fast server.
        let most_leaders = LEADERS + LEADERS * std::thread::available_parallelism().map_or(1, |n| n.get());
        let most = most.max(most_leaders);
        Arc::new(Workers { most, most_leaders, run: Box::new(run), counts: Mutex::default(), vacancy: Condvar::new() })
    }

    /// Starts the first.
    pub(super) fn start(self: &Arc<Self>) {
        self.fill_vacancy(self.counts());
    }

    /// This thread has found something to do: another waits for the next, if not too many lead.
    pub(super) fn is_busy(self: &Arc<Self>) {
        let mut counts = self.counts();
        counts.busy += 1;
        self.fill_vacancy(counts);
    }

    /// Is this leader the only one that has something to do, and another there for what comes next?
    pub(super) fn am_alone(&self) -> bool {
        let counts = self.counts();
        blocking::is_listening() && counts.busy == 1 && counts.leaders > 1
    }

    /// Runs `work`, which may take hours, without counting this thread.
    pub(super) fn without_me<R>(&self, work: impl FnOnce() -> R) -> R {
        blocking::announce();
        self.counts().present -= 1;
        let result = work();
        self.counts().present += 1;
        result
    }

    /// Sees to it that a leader waits for what comes next.
    fn fill_vacancy(self: &Arc<Self>, mut counts: MutexGuard<'_, Counts>) {
        if counts.busy < counts.leaders || counts.leaders >= self.most_leaders {
            return;
        }
        if counts.spare > 0 {
            counts.spare -= 1;
            counts.called += 1;
            counts.leaders += 1;
            drop(counts);
            return self.vacancy.notify_one();
        }
        if counts.present >= self.most {
            return;
        }
        counts.present += 1;
        counts.leaders += 1;
        drop(counts);
        let workers = self.clone();
        let live = move || workers.live();
        if let Err(e) = std::thread::Builder::new().name("worker".into()).stack_size(STACK).spawn(live) {
            log::error!(error:% = e; "no thread could be started; requests wait for those that run");
            let mut counts = self.counts();
            counts.present -= 1;
            counts.leaders -= 1;
        }
    }

    /// A thread's life; it begins as a leader.
    fn live(self: Arc<Self>) {
        self.lead();
        loop {
            match (self.run)() {
                Outcome::Worked => {
                    if !self.go_on() {
                        return;
                    }
                }
                Outcome::Quiet => {
                    let mut counts = self.counts();
                    if counts.leaders > counts.busy + 1 {
                        counts.leaders -= 1;
                        counts.present -= 1;
                        return;
                    }
                }
                Outcome::End => return,
            }
        }
    }

    /// What it did is done: leads on, or waits until it may lead again. False when it is not needed any more.
    fn go_on(self: &Arc<Self>) -> bool {
        let mut counts = self.counts();
        if blocking::is_listening() {
            counts.busy -= 1;
            return true;
        }
        if counts.present > self.most {
            counts.present -= 1;
            return false;
        }
        if counts.leaders < self.most_leaders {
            counts.leaders += 1;
        } else {
            counts.spare += 1;
            let waited = self.vacancy.wait_timeout_while(counts, IDLE, |c| c.called == 0);
            counts = waited.unwrap_or_else(|e| e.into_inner()).0;
            if counts.called == 0 {
                counts.spare -= 1;
                counts.present -= 1;
                return false;
            }
            counts.called -= 1;
        }
        drop(counts);
        self.lead();
        true
    }

    /// This thread leads, until it is about to wait for long.
    fn lead(self: &Arc<Self>) {
        let workers = self.clone();
        blocking::listen(move || {
            let mut counts = workers.counts();
            counts.leaders -= 1;
            counts.busy -= 1;
            workers.fill_vacancy(counts);
        });
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(|e| e.into_inner())
    }
}
