//! A measurement from its preparation to its result.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;

use super::names::{meet, name};
use super::spinning::{Spinning, check};
use super::subject::{MeasureOf, Subject};
use crate::domain::advice::Advised;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::measure::account::{Accounts, Record};
use crate::domain::measure::culprit::KnownThread;
use crate::domain::measure::measurement::Measurement;
use crate::domain::topology::Topology;
use crate::host::signals::{TO_END, taken};
use crate::host::surroundings::release;
use crate::host::topology::read_topology;
use crate::host::tracer::{BUFFER, Trace};
use crate::host::{Host, busy, meminfo};
use crate::lifecycle::engine::journal::state_dir::make_state_dir;

/// How often records are fetched: a buffer holds some 20,000 of them.
const PERIOD: Duration = Duration::from_millis(100);

/// For how long is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// How long at most.
    pub duration: Duration,
    /// How long an interruption may take: the first that takes longer ends it.
    pub stop_over: Option<Duration>,
}

/// Measures for so long; `tell` is called every now and then with the time that is left.
///
/// # Errors
/// What is to be measured is not there, or the kernel's tracer cannot be used.
pub fn measure(
    host: &Host,
    asked: &MeasureOf,
    extent: Extent,
    tell: &dyn Fn(Duration),
) -> anyhow::Result<Measurement> {
    let topology = read_topology(&*host.files)?;
    let mut subject = Subject::find(host, asked, topology.online())?;
    check(host, asked, topology.online(), extent.duration)?;
    enough_memory(host, topology.online().len())?;
    make_state_dir(&*host.files)?;
    step_aside(host, asked, &subject.cpus, topology.online())?;
    // Without room for them they end the program as ever, and what is left is removed later.
    let signals = taken(TO_END).ok();
    let mut trace = Trace::prepare(&*host.files, &subject.cpus, topology.online())?;
    let spinning = Spinning::begin(host, asked, &mut subject)?;
    let mut watch = Watch::begin(host, &subject, &mut trace, spinning)?;
    let until = host.clock.since_boot() + extent.duration;
    let limit = extent.stop_over.map(nanoseconds);
    loop {
        let left = until.saturating_sub(host.clock.since_boot());
        let signal = signals.as_ref().and_then(|taken| taken.read_signal().ok());
        if left.is_zero() || signal.flatten().is_some() {
            break;
        }
        tell(left);
        host.clock.wait_for_end(&[], left.min(PERIOD));
        watch.fetch(&mut trace)?;
        if limit.is_some_and(|limit| watch.accounts.has_longer(limit)) {
            break;
        }
    }
    watch.end(trace, &subject, &topology, limit)
}

/// What is seen while it is measured.
struct Watch<'h> {
    host: &'h Host,
    accounts: Accounts,
    /// Records that are later than the last look at every CPU.
    pending: Vec<Record>,
    known: BTreeMap<i32, KnownThread>,
    began: u64,
    idle: BTreeMap<CpuId, (u64, u64)>,
    waited: BTreeMap<i32, u64>,
    spinning: Option<Spinning>,
}

impl<'h> Watch<'h> {
    fn begin(
        host: &'h Host,
        subject: &Subject,
        trace: &mut Trace<'_>,
        spinning: Option<Spinning>,
    ) -> anyhow::Result<Self> {
        let mut accounts = Accounts::new(subject.threads(), subject.at_rest());
        let waited = waited(host, subject);
        let idle = busy::idle_times(&*host.files);
        trace.record(true)?;
        let began = now(host);
        accounts.begin(began);
        if let Some(spinning) = &spinning {
            spinning.count_from(began);
        }
        Ok(Watch {
            host,
            accounts,
            pending: Vec::new(),
            known: BTreeMap::new(),
            began,
            idle,
            waited,
            spinning,
        })
    }

    /// Adds up what was recorded. What is later than the beginning of this look is left for the next one: another
    /// CPU may still have something earlier.
    fn fetch(&mut self, trace: &mut Trace<'_>) -> anyhow::Result<()> {
        let looked = now(self.host);
        trace.fetch(&mut self.pending)?;
        self.note_until(looked);
        if let Some(spinning) = &mut self.spinning {
            spinning.look(&self.accounts, looked, trace.is_torn);
        }
        meet(&*self.host.files, &self.accounts, &mut self.known);
        Ok(())
    }

    fn note_until(&mut self, until: u64) {
        self.pending.sort_by_key(|record| record.at);
        let n = self.pending.partition_point(|record| record.at < until);
        for record in self.pending.drain(..n) {
            // What was switched on a moment before belongs to nobody.
            if record.at >= self.began {
                self.accounts.note(record);
            }
        }
    }

    fn end(
        mut self,
        mut trace: Trace<'_>,
        subject: &Subject,
        topology: &Topology,
        limit: Option<u64>,
    ) -> anyhow::Result<Measurement> {
        let host = self.host;
        let ended = now(host);
        trace.record(false)?;
        let waited_now = waited(host, subject);
        let idle_now = busy::idle_times(&*host.files);
        if let Some(spinning) = &mut self.spinning {
            spinning.end(ended);
        }
        trace.fetch(&mut self.pending)?;
        self.note_until(ended);
        self.accounts.end(ended);
        if let Some(spinning) = &mut self.spinning {
            spinning.look(&self.accounts, ended, trace.is_torn);
        }
        let spin = self.spinning.as_ref().map(Spinning::seen);
        let names = name(&*host.files, &self.accounts, self.known, subject.vmid);
        let mut seats = subject.seats.clone();
        for seat in &mut seats {
            let (before, now) = (self.waited.get(&seat.thread), waited_now.get(&seat.thread));
            let waited = now
                .zip(before)
                .map(|(now, before)| now.saturating_sub(*before));
            seat.steal_ns = waited.unwrap_or_default();
        }
        let mut accounts = self.accounts.cpus.values();
        let sees_guest = accounts.any(|account| account.own.times > 0);
        let mut measurement = Measurement {
            vmid: subject.vmid,
            name: subject.name.clone(),
            cpus: subject.cpus.clone(),
            began_ns: self.began,
            duration_ns: ended.saturating_sub(self.began),
            kernel: release(&*host.files).unwrap_or_default(),
            at: host.clock.since_epoch().as_secs(),
            steal_ns: seats.iter().map(|seat| seat.steal_ns).sum(),
            seats,
            sees_guest,
            siblings: siblings(topology, &subject.cpus, &self.idle, &idle_now),
            unseen: unseen(&trace, sees_guest, subject.vmid.is_some(), spin.is_some()),
            spin,
            n_records: trace.n_records,
            record_ns: trace.shortest_ns.unwrap_or_default(),
            ..Measurement::default()
        };
        measurement.add_up(&self.accounts, &names, limit);
        Ok(measurement)
    }
}

/// Returns the time by the clock of the trace, in nanoseconds.
fn now(host: &Host) -> u64 {
    nanoseconds(host.clock.since_boot())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn waited(host: &Host, subject: &Subject) -> BTreeMap<i32, u64> {
    let threads = subject.threads().into_iter();
    let waited = threads.filter_map(|tid| Some((tid, busy::waited(&*host.files, tid)?)));
    waited.collect()
}

/// Returns how busy the SMT siblings outside of these CPUs were, in parts of a thousand.
fn siblings(
    topology: &Topology,
    cpus: &CpuSet,
    before: &BTreeMap<CpuId, (u64, u64)>,
    now: &BTreeMap<CpuId, (u64, u64)>,
) -> Vec<(CpuId, u64)> {
    let siblings = cpus
        .iter()
        .fold(CpuSet::new(), |all, cpu| all.union(&topology.siblings(cpu)));
    let outside = siblings.difference(cpus);
    let busy = outside.iter().filter_map(|cpu| {
        let ((idle, all), (idle_now, all_now)) = (before.get(&cpu)?, now.get(&cpu)?);
        let passed = all_now.saturating_sub(*all).max(1);
        let idle = idle_now.saturating_sub(*idle).min(passed);
        Some((cpu, (passed - idle) * 1000 / passed))
    });
    busy.collect()
}

/// Says what could not be seen, and why.
fn unseen(trace: &Trace<'_>, sees_guest: bool, is_vm: bool, is_spun: bool) -> Vec<String> {
    let mut unseen = Vec::new();
    if trace.is_torn {
        let text = "some records were lost: the host was too busy to fetch them in time";
        unseen.push(text.to_owned());
    }
    if is_vm && !sees_guest {
        unseen.push("why the vcpus leave the guest: it does not run with kvm".to_owned());
    }
    if trace.missing.contains(&"csd/csd_queue_cpu") {
        let text = "who interrupts these cpus from others: linux 6.5 and later show it";
        unseen.push(text.to_owned());
    }
    let is_told = |name: &str| {
        ["csd/", "kvm/", "ipi/"]
            .iter()
            .any(|dir| name.starts_with(dir))
    };
    let mut others = trace.missing.clone();
    others.retain(|name| !is_told(name));
    if !others.is_empty() {
        let names = others.join(", ");
        unseen.push(format!("tracepoints that this kernel has not: {names}"));
    }
    // A thread that spins sees it.
    if !is_spun {
        unseen.push(
            "what the firmware does (system management interrupts): no kernel sees it".to_owned(),
        );
    }
    unseen
}

/// Lets this process run elsewhere, so that it measures others and not itself.
fn step_aside(
    host: &Host,
    asked: &MeasureOf,
    cpus: &CpuSet,
    online: &CpuSet,
) -> anyhow::Result<()> {
    let elsewhere = online.difference(cpus);
    if elsewhere.is_empty() {
        return Ok(());
    }
    match host.sched.set_affinity(0, &elsewhere) {
        // Real-time threads would leave it next to no time to end them.
        Err(error) if matches!(asked, MeasureOf::Spinning(..)) => {
            let fact = "this program may only run on the cpus where threads are to spin";
            let help = "run it where its cgroup has others: /proc/self/cgroup names that";
            Err(anyhow::Error::new(error).context(Advised::new(fact, help)))
        }
        // Where its cgroup forbids it, it is seen among the others.
        _ => Ok(()),
    }
}

/// Buffers are taken for every CPU that is online, whatever `tracing_cpumask` says, of two instances.
fn enough_memory(host: &Host, n_online: usize) -> anyhow::Result<()> {
    let needed = BUFFER.saturating_mul(2 * n_online as u64) >> 10;
    let available = meminfo::available(&*host.files).unwrap_or(u64::MAX);
    if needed > available / 2 {
        bail!(Advised::new(
            format!(
                "the tracer takes {} MiB for {n_online} cpus, and {} MiB are available",
                needed >> 10,
                available >> 10
            ),
            "free memory: echo 1 > /proc/sys/vm/drop_caches gives back caches".to_owned(),
        ));
    }
    Ok(())
}
