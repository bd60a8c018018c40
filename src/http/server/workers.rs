//! The threads that requests run on.
//!
//! A few *lead*: they take what is ready from the poller and see it through, and nobody else has to be woken for it. A
//! leader that is about to wait for long, for a slow server, a slow client, the disk or a password hash, steps aside
//! first, so that another leads in its place. So fast requests run on few threads, which the system schedules well, and
//! slow ones on as many as there are. A leader that takes long without a word is put aside by a watchdog.

use crate::lock::Unpoisoned;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::blocking;

/// Stack of a worker: pages that are not touched cost nothing.
const STACK: usize = 256 << 10;
/// A worker that had nothing to do for so long goes, unless it is the last that leads.
pub(super) const IDLE: Duration = Duration::from_secs(10);

/// Leaders for each core, and as many again.
const LEADERS: usize = 2;

/// While all leaders are busy, the watchdog looks at them so often.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// It puts aside those that have been busy for longer than this, when nothing at all was done since it looked last: where
/// something was, they wait for a core, as a rule, and more threads would only make that longer.
const TOO_LONG: Duration = Duration::from_millis(20);
/// So long is no wait for a core.
const TOO_LONG_BY_ITSELF: Duration = Duration::from_millis(500);

thread_local! {
    /// This thread's turn as a leader.
    static TURN: RefCell<Option<Arc<Turn>>> = const { RefCell::new(None) };
}

/// One thread's turn as a leader. It ends when the thread steps aside, or is put aside.
#[derive(Default)]
struct Turn {
    is_over: AtomicBool,
    /// Milliseconds from the start of the workers to the moment when it found something to do; 0 while it has not.
    busy_since: AtomicU64,
}

impl Turn {
    /// Ends the turn; false when it was over.
    fn end(&self) -> bool {
        !self.is_over.swap(true, Ordering::AcqRel)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

/// All of them.
pub(super) struct Workers {
    /// Threads at one time, but for those that are busy with a stream.
    most: usize,
    most_leaders: usize,
    run: Box<dyn Fn() -> Outcome + Send + Sync>,
    counts: Mutex<Counts>,
    vacancy: Condvar,
    /// Wakes the watchdog.
    saturated: Condvar,
    started: Instant,
}

/// What came of a leader's turn.
pub(super) enum Outcome {
    /// Something was done.
    Worked,
    /// There was nothing to do for [`IDLE`].
    Timeout,
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
    /// Things that leaders have done.
    done: u64,
    /// Threads that wait until they may lead, and how many of them have been told to.
    spare: usize,
    called: usize,
    /// Turns that are not known to be over.
    turns: Vec<Arc<Turn>>,
    /// The watchdog is awake.
    is_watched: bool,
    has_ended: bool,
}

impl Workers {
    /// Up to `most` threads that call `run`, which takes one thing from the poller and sees it through; none yet.
    pub(super) fn new(most: usize, run: impl Fn() -> Outcome + Send + Sync + 'static) -> Arc<Workers> {
        // Enough to keep each core busy while some wait for a fast server.
        let most_leaders = LEADERS + LEADERS * std::thread::available_parallelism().map_or(1, |n| n.get());
        let most = most.max(most_leaders);
        Arc::new(Workers {
            most,
            most_leaders,
            run: Box::new(run),
            counts: Mutex::default(),
            vacancy: Condvar::new(),
            saturated: Condvar::new(),
            started: Instant::now(),
        })
    }

    /// Starts the first, and the watchdog.
    pub(super) fn start(self: &Arc<Self>) -> std::io::Result<()> {
        self.fill_vacancy(self.counts());
        let workers = self.clone();
        std::thread::Builder::new().name("watchdog".into()).stack_size(STACK).spawn(move || workers.watch())?;
        Ok(())
    }

    /// Nothing is to be done any more.
    pub(super) fn end(&self) {
        self.counts().has_ended = true;
        self.saturated.notify_all();
    }

    /// This thread has found something to do: another waits for the next, if not too many lead.
    pub(super) fn is_busy(self: &Arc<Self>) {
        let now = (self.started.elapsed().as_millis() as u64).max(1);
        TURN.with_borrow(|turn| turn.iter().for_each(|t| t.busy_since.store(now, Ordering::Relaxed)));
        let mut counts = self.counts();
        counts.busy += 1;
        self.fill_vacancy(counts);
    }

    /// Is this leader the only one that has something to do, and another there for what comes next?
    pub(super) fn am_alone(&self) -> bool {
        let counts = self.counts();
        leads() && counts.busy == 1 && counts.leaders > 1
    }

    /// Puts leaders aside that take long without a word, whenever all are busy: a call that blocks and that nobody
    /// thought of must not keep everybody else waiting.
    fn watch(self: Arc<Self>) {
        let mut done = 0;
        loop {
            let idle = |counts: &mut Counts| !counts.is_watched && !counts.has_ended;
            let counts = self.saturated.wait_while(self.counts(), idle).unpoisoned();
            if counts.has_ended {
                return;
            }
            drop(counts);
            std::thread::sleep(LOOK_EVERY);
            let mut counts = self.counts();
            counts.turns.retain(|turn| !turn.is_over());
            let now = self.started.elapsed().as_millis() as u64;
            let is_stalled = std::mem::replace(&mut done, counts.done) == counts.done;
            let bound = if is_stalled { TOO_LONG } else { TOO_LONG_BY_ITSELF }.as_millis() as u64;
            let takes_long = |turn: &&Arc<Turn>| {
                let since = turn.busy_since.load(Ordering::Relaxed);
                since > 0 && now.saturating_sub(since) > bound
            };
            let slow: Vec<Arc<Turn>> = counts.turns.iter().filter(takes_long).cloned().collect();
            counts.is_watched = counts.busy >= counts.leaders;
            drop(counts);
            slow.iter().for_each(|turn| self.put_aside(turn));
        }
    }

    /// Another leads in the place of a leader that is busy.
    fn put_aside(self: &Arc<Self>, turn: &Turn) {
        let mut counts = self.counts();
        // Under the lock: the thread may be done this very moment.
        if turn.busy_since.load(Ordering::Relaxed) > 0 && turn.end() {
            counts.leaders -= 1;
            counts.busy -= 1;
            self.fill_vacancy(counts);
        }
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
        if counts.busy < counts.leaders {
            return;
        }
        if counts.leaders >= self.most_leaders {
            if !std::mem::replace(&mut counts.is_watched, true) {
                self.saturated.notify_all();
            }
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
                Outcome::Timeout => {
                    let mut counts = self.counts();
                    if counts.leaders > counts.busy + 1 {
                        TURN.with_borrow(|turn| turn.iter().for_each(|t| _ = t.end()));
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
        if leads() {
            TURN.with_borrow(|turn| turn.iter().for_each(|t| t.busy_since.store(0, Ordering::Relaxed)));
            counts.busy -= 1;
            counts.done += 1;
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
            counts = waited.unpoisoned().0;
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
        let turn = Arc::new(Turn::default());
        let mut counts = self.counts();
        if counts.turns.len() > 8 * self.most_leaders {
            counts.turns.retain(|turn| !turn.is_over());
        }
        counts.turns.push(turn.clone());
        drop(counts);
        TURN.set(Some(turn.clone()));
        let workers = self.clone();
        blocking::listen(move || workers.put_aside(&turn));
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unpoisoned()
    }
}

/// Does this thread lead?
fn leads() -> bool {
    TURN.with_borrow(|turn| turn.as_ref().is_some_and(|t| !t.is_over()))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    #[test]
    fn a_call_that_blocks_without_a_word_keeps_nobody_waiting() {
        let (jobs, queue) = channel::<Receiver<()>>();
        let queue = Mutex::new(queue);
        let workers: Arc<std::sync::OnceLock<Arc<Workers>>> = Arc::default();
        let (own, done) = (workers.clone(), Arc::new(AtomicU64::new(0)));
        let count = done.clone();
        let made = Workers::new(64, move || {
            let Ok(job) = queue.lock().unwrap().recv() else { return Outcome::End };
            own.get().unwrap().is_busy();
            // It says nothing of this.
            let _ = job.recv();
            count.fetch_add(1, Ordering::SeqCst);
            Outcome::Worked
        });
        let _ = workers.set(made.clone());
        made.start().unwrap();
        // More than there may be leaders.
        let blocked: Vec<_> = (0..made.most_leaders + 3)
            .map(|_| {
                let (release, job) = channel::<()>();
                jobs.send(job).unwrap();
                release
            })
            .collect();
        let (release, job) = channel();
        drop(release);
        jobs.send(job).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while done.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < deadline, "everybody waits for those that block");
            std::thread::yield_now();
        }
        let counts = made.counts();
        assert!(counts.busy <= counts.leaders && counts.leaders <= made.most_leaders);
        drop(counts);
        drop(blocked);
        while done.load(Ordering::SeqCst) < made.most_leaders as u64 + 4 {
            assert!(Instant::now() < deadline, "those that were put aside come back");
            std::thread::yield_now();
        }
        drop(jobs);
        made.end();
    }
}
