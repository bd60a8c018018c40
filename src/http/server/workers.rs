//! The worker threads that handle requests.
//!
//! A few of them are *leaders*: a leader takes the next event from the poller and handles it itself, so no other thread
//! has to be woken. Before a leader blocks for long (on a slow server, a slow client, the disk or a password hash), it
//! announces this ([`blocking::announce`]) and stops being a leader, and another thread becomes leader in its place. So
//! fast requests run on few threads, which the system schedules well, and slow requests on as many threads as there
//! are. A watchdog replaces a leader that is busy for too long without an announcement.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::blocking;
use crate::lock::Unpoisoned;

/// Stack size of a worker thread; untouched pages use no memory.
const STACK: usize = 256 << 10;
/// A worker that had nothing to do for this long exits, unless it is the only leader that waits for events.
pub(super) const IDLE: Duration = Duration::from_secs(10);

/// Leaders per core, and the same number once more in addition.
const LEADERS: usize = 2;

/// How often the watchdog checks the leaders while all of them are busy.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The watchdog replaces leaders that have been busy for longer than this, if no leader finished anything since the
/// last check. If one did, the others are usually waiting for a core, and more threads would only make that wait
/// longer.
const TOO_LONG: Duration = Duration::from_millis(20);
/// The watchdog replaces leaders that have been busy for longer than this in any case: a wait for a core is shorter.
const TOO_LONG_BY_ITSELF: Duration = Duration::from_millis(500);

thread_local! {
    /// The current or last turn of this thread as a leader.
    static TURN: RefCell<Option<Arc<Turn>>> = const { RefCell::new(None) };
}

/// One thread's turn as a leader. It ends when the thread announces that it will block, when the watchdog replaces the
/// thread, or when the thread exits.
#[derive(Default)]
struct Turn {
    is_over: AtomicBool,
    /// When the leader became busy, in milliseconds since the start of the workers; 0 while it is not busy.
    busy_since: AtomicU64,
}

impl Turn {
    /// Ends the turn; false if it was over already.
    fn end(&self) -> bool {
        !self.is_over.swap(true, Ordering::AcqRel)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

/// The pool of worker threads.
pub(super) struct Workers {
    /// Most threads at one time, not counting those that send a stream.
    most: usize,
    most_leaders: usize,
    run: Box<dyn Fn() -> Outcome + Send + Sync>,
    counts: Mutex<Counts>,
    vacancy: Condvar,
    /// Wakes the watchdog.
    saturated: Condvar,
    started: Instant,
}

/// What one call of `run` did.
pub(super) enum Outcome {
    /// It handled an event.
    Worked,
    /// No event came for [`IDLE`].
    Timeout,
    /// The server has stopped; the worker exits.
    End,
}

#[derive(Default)]
struct Counts {
    /// Threads, not counting those that send a stream.
    present: usize,
    leaders: usize,
    /// Leaders that are handling an event.
    busy: usize,
    /// Events handled by leaders so far; tells the watchdog whether there is progress.
    done: u64,
    /// Threads that wait to become a leader (`spare`), and threads that were notified but have not woken up yet
    /// (`called`).
    spare: usize,
    called: usize,
    /// Turns that may still be going on; ended ones are removed from time to time.
    turns: Vec<Arc<Turn>>,
    /// The watchdog is awake.
    is_watched: bool,
    has_ended: bool,
}

impl Workers {
    /// A pool of up to `most` threads, or as many as there may be leaders if that is more. `run` takes one event from
    /// the poller and handles it. No thread is started yet.
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

    /// Starts the first worker and the watchdog.
    pub(super) fn start(self: &Arc<Self>) -> std::io::Result<()> {
        self.fill_vacancy(self.counts());
        let workers = self.clone();
        std::thread::Builder::new().name("watchdog".into()).stack_size(STACK).spawn(move || workers.watch())?;
        Ok(())
    }

    /// Stops the watchdog. The workers stop when `run` returns [`Outcome::End`].
    pub(super) fn end(&self) {
        self.counts().has_ended = true;
        self.saturated.notify_all();
    }

    /// Marks this leader as busy, and makes sure that another leader waits for the next event, unless the maximum
    /// number of leaders is reached.
    pub(super) fn is_busy(self: &Arc<Self>) {
        let now = (self.started.elapsed().as_millis() as u64).max(1);
        let mut counts = self.counts();
        // Under the lock: who puts this turn aside takes the busy leader out of the count.
        TURN.with_borrow(|turn| turn.iter().for_each(|t| t.busy_since.store(now, Ordering::Relaxed)));
        counts.busy += 1;
        self.fill_vacancy(counts);
    }

    /// True if this is the only busy leader and another leader waits for the next event.
    pub(super) fn am_alone(&self) -> bool {
        let counts = self.counts();
        leads() && counts.busy == 1 && counts.leaders > 1
    }

    /// Whenever all leaders are busy, replaces those that are busy for too long without an announcement. So a blocking
    /// call that lacks [`blocking::announce`] does not hold up all other requests.
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

    /// Ends the turn of a busy leader, so that another thread leads in its place.
    fn put_aside(self: &Arc<Self>, turn: &Turn) {
        let mut counts = self.counts();
        // Checked under the lock, because the thread may finish at this very moment.
        if turn.busy_since.load(Ordering::Relaxed) > 0 && turn.end() {
            counts.leaders -= 1;
            counts.busy -= 1;
            self.fill_vacancy(counts);
        }
    }

    /// Runs `work`, which may take hours, without counting this thread as present.
    pub(super) fn without_me<R>(&self, work: impl FnOnce() -> R) -> R {
        blocking::announce();
        self.counts().present -= 1;
        let result = work();
        self.counts().present += 1;
        result
    }

    /// Makes sure that a leader waits for the next event: wakes a waiting thread or starts a new one. If the maximum
    /// number of leaders is reached, wakes the watchdog instead.
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
            log::error!(error:% = e; "a worker thread could not be started; requests wait until another thread is free");
            let mut counts = self.counts();
            counts.present -= 1;
            counts.leaders -= 1;
        }
    }

    /// The main loop of a worker thread, which starts as a leader.
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

    /// Called after an event was handled: stays a leader, or waits until it can be one again. False if the thread
    /// should exit.
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

    /// Makes this thread a leader until it announces that it will block, or the watchdog replaces it.
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

/// True while this thread is a leader.
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
            // Blocks without an announcement.
            let _ = job.recv();
            count.fetch_add(1, Ordering::SeqCst);
            Outcome::Worked
        });
        let _ = workers.set(made.clone());
        made.start().unwrap();
        // More jobs than there may be leaders.
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
