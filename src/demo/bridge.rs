//! The bridge from async code to blocking calls: a fixed set of threads, and a bounded queue in front of them.
//!
//! An async server that calls a blocking driver on its own runtime stalls every connection; one that hands the calls to an
//! unbounded pool trades the stall for memory and threads. The bridge does neither. Callers wait for a free thread as
//! *futures* in a FIFO semaphore, not as entries in a channel: a caller that gives up leaves the queue at that moment,
//! and beyond `depth` waiting callers the next one is turned away at once. A permit travels with its call into the
//! thread, so a call whose caller is gone still holds its thread until it really ends, and no longer.
//!
//! It knows nothing of HTTP.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

/// A pool of threads for blocking calls, with a bounded queue. Its threads end once it is dropped and their calls are done.
///
/// Not `Clone`, because `stop` waits for the threads: share it in an `Arc`.
#[derive(Debug)]
pub struct Bridge {
    jobs: mpsc::Sender<Job>,
    threads: Vec<JoinHandle<()>>,
    free: Arc<Semaphore>,
    depth_max: usize,
    waiting: AtomicUsize,
    rejected: AtomicU64,
    admitted: AtomicU64,
    waited_nanos: AtomicU64,
}

/// The caller's fault, or its callers': all threads were busy and `depth` calls were waiting already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// How long calls waited for a thread since the bridge was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// Calls that got a thread, those that did not have to wait among them.
    pub count: u64,
    /// The sum of their waiting times.
    pub total: Duration,
}

/// A place in the queue; dropping it leaves the queue.
struct Place<'a>(&'a AtomicUsize);

type Job = Box<dyn FnOnce() + Send>;

// === impl Bridge ===

impl Bridge {
    /// Starts `threads` threads (at least one) that up to `depth` further calls may wait for.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize, depth: usize) -> io::Result<Self> {
        let threads = threads.max(1);
        let (jobs, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        let spawn = |number| {
            let queue = Arc::clone(&queue);
            let name = format!("bridge-{number}");
            thread::Builder::new().name(name).spawn(move || work(&queue))
        };
        Ok(Self {
            jobs,
            threads: (0..threads).map(spawn).collect::<io::Result<_>>()?,
            free: Arc::new(Semaphore::new(threads)),
            depth_max: depth,
            waiting: AtomicUsize::new(0),
            rejected: AtomicU64::new(0),
            admitted: AtomicU64::new(0),
            waited_nanos: AtomicU64::new(0),
        })
    }

    /// Runs a blocking `call` on one of the threads; calls start first come, first served.
    ///
    /// Cancel safe: dropped while it waits, the call never runs and its place is free at once; dropped while the call runs,
    /// the call goes on to its end and its result is discarded.
    ///
    /// # Errors
    /// [`Full`], without waiting, when the queue is at its limit.
    ///
    /// # Panics
    /// Passes on a panic of `call`. The thread survives it.
    pub async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Full> {
        let permit = self.admit().await?;
        let (reply, answer) = oneshot::channel();
        let job = Box::new(move || {
            let result = panic::catch_unwind(AssertUnwindSafe(call));
            // Before the reply, so that the caller's next call finds the thread free.
            drop(permit);
            // An error means that the caller has given up; there is nobody to tell.
            let _ = reply.send(result);
        });
        self.jobs.send(job).expect("the threads live as long as the sender in `self`");
        let result =
            answer.await.expect("each job sends one reply, whether its call panics or not");
        Ok(result.unwrap_or_else(|panic| panic::resume_unwind(panic)))
    }

    /// Calls that wait for a thread now.
    pub fn depth(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Threads at work now.
    pub fn busy(&self) -> usize {
        self.threads.len() - self.free.available_permits()
    }

    /// Calls turned away so far.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// The waiting times so far. The two figures are read one after the other, so a call admitted in between may be in one only.
    pub fn wait(&self) -> Wait {
        Wait {
            count: self.admitted.load(Ordering::Relaxed),
            total: Duration::from_nanos(self.waited_nanos.load(Ordering::Relaxed)),
        }
    }

    /// Waits until the calls in progress have ended and the threads are gone. Blocks: not for async code.
    pub fn stop(self) {
        let Self { jobs, threads, .. } = self;
        drop(jobs);
        for thread in threads {
            // A thread does not panic: jobs catch what their calls throw.
            let _ = thread.join();
        }
    }

    async fn admit(&self) -> Result<OwnedSemaphorePermit, Full> {
        // The semaphore hands a returned permit to the longest waiting caller directly, so this cannot overtake anyone.
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            self.count(Duration::ZERO);
            return Ok(permit);
        }
        let _place = self.enter()?;
        let since = Instant::now();
        let permit = Arc::clone(&self.free).acquire_owned().await;
        self.count(since.elapsed());
        Ok(permit.expect("nothing closes the semaphore"))
    }

    fn enter(&self) -> Result<Place<'_>, Full> {
        let one_more = |waiting| (waiting < self.depth_max).then_some(waiting + 1);
        match self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Place(&self.waiting)),
            Err(_) => {
                self.rejected.fetch_add(1, Ordering::Relaxed);
                Err(Full)
            }
        }
    }

    fn count(&self, wait: Duration) {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.admitted.fetch_add(1, Ordering::Relaxed);
        self.waited_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

// === impl Place ===

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One thread: takes jobs until the bridge is gone.
fn work(queue: &Mutex<mpsc::Receiver<Job>>) {
    while let Some(job) = next(queue) {
        job();
    }
}

/// In a function of its own, so that the lock is released before the job runs.
fn next(queue: &Mutex<mpsc::Receiver<Job>>) -> Option<Job> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// A call that ends when its gate is opened, or dropped.
    fn gated() -> (mpsc::Sender<()>, impl FnOnce() -> u32 + Send + 'static) {
        let (open, gate) = mpsc::channel::<()>();
        (open, move || gate.recv().map_or(0, |()| 1))
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn a_call_returns_its_value_and_counts_no_wait() {
        let bridge = Bridge::new(2, 0).unwrap();
        assert_eq!(bridge.run(|| 7).await, Ok(7));
        assert_eq!(bridge.wait(), Wait { count: 1, total: Duration::ZERO });
        bridge.stop();
    }

    #[tokio::test]
    async fn beyond_the_depth_a_call_is_turned_away_at_once() {
        let bridge = Bridge::new(1, 1).unwrap();
        let (open, call) = gated();
        let mut first = pin!(bridge.run(call));
        assert!(poll(first.as_mut()).is_pending());
        let mut second = pin!(bridge.run(|| 2));
        assert!(poll(second.as_mut()).is_pending());
        assert_eq!((bridge.busy(), bridge.depth()), (1, 1));

        assert_eq!(bridge.run(|| 3).await, Err(Full));
        assert_eq!(bridge.rejected(), 1);

        open.send(()).unwrap();
        assert_eq!((first.await, second.await), (Ok(1), Ok(2)));
        assert_eq!((bridge.depth(), bridge.wait().count), (0, 2));
        assert!(bridge.wait().total > Duration::ZERO);
    }

    #[tokio::test]
    async fn a_dropped_waiting_caller_leaves_the_queue_and_never_runs() {
        let bridge = Bridge::new(1, 1).unwrap();
        let (open, call) = gated();
        let mut first = pin!(bridge.run(call));
        assert!(poll(first.as_mut()).is_pending());
        let (ran, has_run) = mpsc::channel();
        {
            let mut second = pin!(bridge.run(move || ran.send(())));
            assert!(poll(second.as_mut()).is_pending());
        }
        assert_eq!(bridge.depth(), 0);

        let mut third = pin!(bridge.run(|| 3));
        assert!(poll(third.as_mut()).is_pending(), "the place is free again");
        open.send(()).unwrap();
        assert_eq!((first.await, third.await), (Ok(1), Ok(3)));
        assert!(has_run.recv().is_err());
    }

    #[tokio::test]
    async fn a_dropped_running_caller_keeps_its_thread_until_the_call_ends() {
        let bridge = Bridge::new(1, 1).unwrap();
        let (open, call) = gated();
        {
            let mut first = pin!(bridge.run(call));
            assert!(poll(first.as_mut()).is_pending());
        }
        assert_eq!(bridge.busy(), 1);
        open.send(()).unwrap();
        assert_eq!(bridge.run(|| 2).await, Ok(2));
    }

    #[tokio::test]
    async fn a_panic_reaches_the_caller_and_the_thread_survives() {
        let bridge = Arc::new(Bridge::new(1, 0).unwrap());
        let caller = Arc::clone(&bridge);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { caller.run(|| panic!("meant to")).await.map(|()| 0) });
        assert!(tasks.join_next().await.unwrap().unwrap_err().is_panic());
        assert_eq!(bridge.run(|| 2).await, Ok(2));
    }
}
