//! Threads of this program that never sleep: each reads the clock on its CPU, and so sees when it did not have it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::libc::SCHED_FIFO;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::gettid;

use super::sched::Sched;
use crate::domain::advice::Advised;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::measure::absence::Gap;
use crate::domain::measure::gaps::Gaps;

/// Long gaps of a thread that wait to be fetched, at most: more than can be in 100 ms. A thread that had to wait
/// for room, or for a lock, would see gaps of its own making.
const MOST: usize = 16_384;

/// Threads that spin, one on each CPU; they end when this is dropped.
#[derive(Debug)]
pub struct Spinners {
    threads: Vec<Spinner>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Spinner {
    cpu: CpuId,
    tid: i32,
    /// It spins from the first message on, and ends where none can come.
    go: Sender<()>,
    gaps: Receiver<Gap>,
    thread: JoinHandle<Seen>,
}

/// What all threads look at before they note a gap; times are since boot, in nanoseconds.
#[derive(Debug)]
struct Shared {
    n_running: AtomicUsize,
    /// Gaps that began earlier do not count.
    from: AtomicU64,
    /// Then they end.
    until: AtomicU64,
}

/// What threads have seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// All gaps.
    pub gaps: Gaps,
    /// Long ones that were not fetched yet.
    pub late: Vec<(CpuId, Gap)>,
    /// How many long ones could not be handed over.
    pub n_lost: u64,
}

impl Spinners {
    /// Makes a thread for each of these CPUs, a real-time one if asked for; they wait for [`Spinners::spin`].
    ///
    /// # Errors
    /// The kernel lets this program not run there, or not at that priority.
    pub fn prepare(sched: &dyn Sched, cpus: &CpuSet, is_realtime: bool) -> anyhow::Result<Self> {
        let mut spinners = Spinners {
            threads: Vec::new(),
            shared: Arc::new(Shared {
                n_running: AtomicUsize::new(0),
                from: AtomicU64::new(u64::MAX),
                until: AtomicU64::new(u64::MAX),
            }),
        };
        for cpu in cpus.iter() {
            let spinner = Spinner::make(cpu, &spinners.shared)?;
            let tid = spinner.tid;
            spinners.threads.push(spinner);
            let pinned = sched.set_affinity(tid, &CpuSet::of(cpu));
            pinned.with_context(|| refused_there(cpu))?;
            if is_realtime {
                let set = sched.set_class(tid, SCHED_FIFO.unsigned_abs(), 1);
                set.with_context(|| {
                    let help = "run it as root, or leave --realtime out";
                    Advised::new("the kernel makes no real-time thread of this program", help)
                })?;
            }
        }
        Ok(spinners)
    }

    /// Has all of them spin from now on.
    pub fn spin(&self) {
        for spinner in &self.threads {
            // One that has ended is missed by whoever asks whether all run.
            let _ = spinner.go.send(());
        }
    }

    /// Tells whether each has got its CPU.
    pub fn are_running(&self) -> bool {
        self.shared.n_running.load(Ordering::Relaxed) == self.threads.len()
    }

    /// Returns the CPUs, each with the thread that spins on it.
    pub fn threads(&self) -> impl Iterator<Item = (CpuId, i32)> {
        self.threads.iter().map(|one| (one.cpu, one.tid))
    }

    /// Has gaps count that begin at this time or later.
    pub fn count_from(&self, at: u64) {
        self.shared.from.store(at, Ordering::Relaxed);
    }

    /// Appends the long gaps that have been seen since the last time.
    pub fn fetch(&self, gaps: &mut Vec<(CpuId, Gap)>) {
        for spinner in &self.threads {
            gaps.extend(spinner.gaps.try_iter().map(|gap| (spinner.cpu, gap)));
        }
    }

    /// Ends them, at this time if it is not over; returns what they have seen.
    pub fn end(&mut self, at: u64) -> Seen {
        self.shared.until.store(at, Ordering::Relaxed);
        let mut all = Seen::default();
        for spinner in self.threads.drain(..) {
            drop(spinner.go);
            let seen = spinner.thread.join().unwrap_or_default();
            let late = spinner.gaps.try_iter();
            all.late.extend(late.map(|gap| (spinner.cpu, gap)));
            all.gaps.merge(&seen.gaps);
            all.n_lost += seen.n_lost;
        }
        all
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        self.end(0);
    }
}

impl Spinner {
    fn make(cpu: CpuId, shared: &Arc<Shared>) -> anyhow::Result<Self> {
        let (go, begin) = channel();
        let (tell_tid, tid) = channel();
        let (tell, gaps) = sync_channel(MOST);
        let shared = Arc::clone(shared);
        let thread = Builder::new().name("pin-hook-spin".to_owned());
        let thread = thread.spawn(move || {
            let _ = tell_tid.send(gettid().as_raw());
            match begin.recv() {
                Ok(()) => spin(&shared, &tell),
                Err(_) => Seen::default(),
            }
        });
        let thread = thread.context("cannot make a thread")?;
        let tid = tid.recv().map_err(|_| anyhow!("a thread has ended"))?;
        Ok(Spinner {
            cpu,
            tid,
            go,
            gaps,
            thread,
        })
    }
}

/// Reads the clock until it is time to end.
fn spin(shared: &Shared, tell: &SyncSender<Gap>) -> Seen {
    let mut seen = Seen::default();
    shared.n_running.fetch_add(1, Ordering::Relaxed);
    let mut last = now();
    loop {
        let at = now();
        if at >= shared.until.load(Ordering::Relaxed) {
            return seen;
        }
        if last >= shared.from.load(Ordering::Relaxed)
            && let Some(gap) = seen.gaps.add(last, at)
            && let Err(TrySendError::Full(_)) = tell.try_send(gap)
        {
            seen.n_lost += 1;
        }
        last = at;
    }
}

/// Returns the time since boot, in nanoseconds.
fn now() -> u64 {
    // Every kernel since 2.6.39 has this clock, so that the call cannot fail.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME);
    let time = time.map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn refused_there(cpu: CpuId) -> Advised {
    Advised::new(
        format!(
            "this program may not run on cpu {cpu}: a partition has it, or a cpuset forbids it"
        ),
        "cpuset.cpus.effective of the cgroup in /proc/self/cgroup has the cpus that it may use",
    )
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::host::clock::{Clock, KernelClock};
    use crate::host::sched::KernelSched;

    /// A scheduler that pins no thread.
    #[derive(Debug)]
    struct Refusing;

    impl Sched for Refusing {
        fn affinity(&self, tid: i32) -> io::Result<CpuSet> {
            KernelSched.affinity(tid)
        }

        fn set_affinity(&self, _: i32, _: &CpuSet) -> io::Result<()> {
            Err(io::ErrorKind::InvalidInput.into())
        }

        fn set_class(&self, _: i32, _: u32, _: u32) -> io::Result<()> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }

    fn first_cpu() -> CpuSet {
        let allowed = KernelSched.affinity(0).unwrap();
        CpuSet::of(allowed.first().unwrap())
    }

    fn begun(spinners: &Spinners) {
        spinners.count_from(0);
        spinners.spin();
        while !spinners.are_running() {
            KernelClock.wait_for_end(&[], Duration::from_millis(1));
        }
    }

    #[test]
    fn threads_that_share_a_cpu_see_when_they_do_not_have_it() {
        let cpus = first_cpu();
        let mut both = [(), ()].map(|()| Spinners::prepare(&KernelSched, &cpus, false).unwrap());
        for spinners in &both {
            let (cpu, tid) = spinners.threads().next().unwrap();
            assert_eq!(KernelSched.affinity(tid).unwrap(), CpuSet::of(cpu));
            assert!(!spinners.are_running());
        }
        both.iter().for_each(begun);
        let until = now() + 200_000_000;
        for spinners in &mut both {
            let seen = spinners.end(until);
            assert!(now() >= until);
            // The other one had the CPU meanwhile.
            assert!(seen.gaps.tally.longest_ns > 100_000, "{seen:?}");
            let mut late = seen.late.iter().map(|(_, gap)| gap.ns);
            assert!(late.any(|ns| ns == seen.gaps.tally.longest_ns), "{seen:?}");
        }
    }

    #[test]
    fn a_thread_that_cannot_be_pinned_ends_and_the_reason_is_told() {
        let error = Spinners::prepare(&Refusing, &first_cpu(), false).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("this program may not run on cpu"),
            "{text}"
        );
    }

    #[test]
    fn threads_end_with_their_guard_whether_they_have_begun_or_not() {
        for has_begun in [false, true] {
            let spinners = Spinners::prepare(&KernelSched, &first_cpu(), false).unwrap();
            let shared = Arc::clone(&spinners.shared);
            assert_eq!(Arc::strong_count(&shared), 3);
            if has_begun {
                begun(&spinners);
            }
            drop(spinners);
            assert_eq!(Arc::strong_count(&shared), 1);
        }
    }
}
