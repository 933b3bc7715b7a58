//! The kernel's tracer in instances of our own (`Documentation/trace/ftrace.rst`): nobody else's trace is touched.
//!
//! Tracepoints are switched on with recording off, because that changes the kernel's code and interrupts every
//! CPU for a moment (`text_poke`); what is recorded begins after it and ends before it is undone.

use std::io;

use super::files::{Files, LockGuard, if_there};
use super::trouble::cannot;
use crate::domain::advice::Advised;
use crate::domain::cpuset::{CpuId, CpuSet};
use crate::domain::knob::Grammar;
use crate::domain::measure::account::Record;
use crate::domain::target::Value;
use crate::domain::trace::event::{Decoder, ELSEWHERE, ESSENTIAL, HERE, Point};
use crate::domain::trace::page::Page;

const TRACEFS: &str = "/sys/kernel/tracing";
/// The instance with the records of the measured CPUs.
const ON_THEM: &str = "/sys/kernel/tracing/instances/pin-hook";
/// The instance with the records of those who ask these CPUs for something.
const AROUND: &str = "/sys/kernel/tracing/instances/pin-hook-asks";
/// LockGuard as long as there are instances of ours.
const LOCK: &str = "/run/pin-hook/measure.lock";
/// What an instance takes for each CPU unless somebody has said otherwise (`buffer_size_kb`), in bytes.
pub const BUFFER: u64 = 1_441_792;

/// More pages than a buffer has. Each read ends at what is written at that moment, so that who reads slowly would
/// never come to an end.
const MOST_PAGES: usize = 400;

/// A trace; it is removed when this is dropped.
#[derive(Debug)]
pub struct Trace<'h> {
    files: &'h dyn Files,
    cpus: CpuSet,
    all: CpuSet,
    decoder: Decoder,
    /// Tracepoints that this kernel has not.
    pub missing: Vec<&'static str>,
    /// Records that were made on the measured CPUs.
    pub n_records: u64,
    /// Shortest time between two of them on one CPU, in nanoseconds: so much a record costs at most.
    pub shortest_ns: Option<u64>,
    /// Whether records were lost because they were not fetched in time.
    pub is_torn: bool,
    _lock: Box<dyn LockGuard>,
}

impl<'h> Trace<'h> {
    /// Prepares a trace of these CPUs, `online` being all that are; nothing is recorded yet.
    ///
    /// # Errors
    /// The kernel has no tracer, somebody measures already, or the kernel refuses.
    pub fn prepare(files: &'h dyn Files, cpus: &CpuSet, online: &CpuSet) -> anyhow::Result<Self> {
        if !files.exists(&format!("{TRACEFS}/instances")) {
            let fact = "the kernel's tracer is not there: no /sys/kernel/tracing/instances";
            let help = "mount -t tracefs tracefs /sys/kernel/tracing, if the kernel has it";
            return Err(Advised::new(fact.to_owned(), help.to_owned()).into());
        }
        let lock = lock(files)?;
        remove_instances(files).map_err(cannot("remove", ON_THEM))?;
        let mut trace = Trace {
            files,
            cpus: cpus.clone(),
            all: online.clone(),
            decoder: Decoder::default(),
            missing: Vec::new(),
            n_records: 0,
            shortest_ns: None,
            is_torn: false,
            _lock: lock,
        };
        let mask = Value::Cpus(cpus.clone()).render(Grammar::CpuMask);
        trace.instance(ON_THEM)?;
        trace.set(&format!("{ON_THEM}/tracing_cpumask"), &mask)?;
        trace.switch_on(ON_THEM, HERE, None)?;
        trace.instance(AROUND)?;
        trace.switch_on(AROUND, ELSEWHERE, Some(&asked(cpus)))?;
        Ok(trace)
    }

    /// Makes an instance that does not record yet. Its clock is `CLOCK_BOOTTIME`, on every CPU the same.
    fn instance(&self, dir: &str) -> anyhow::Result<()> {
        let made = self.files.make_dir(dir, 0o700);
        made.map_err(cannot("make", dir))?;
        self.set(&format!("{dir}/tracing_on"), "0")?;
        self.set(&format!("{dir}/trace_clock"), "boot")
    }

    fn set(&self, path: &str, text: &str) -> anyhow::Result<()> {
        let written = self.files.write(path, text);
        written.map_err(cannot("write", path))
    }

    fn switch_on(
        &mut self,
        dir: &str,
        points: &'static [Point],
        filter: Option<&str>,
    ) -> anyhow::Result<()> {
        for point in points {
            let event = format!("{dir}/events/{}", point.name);
            let format = self.files.read(&format!("{event}/format"));
            let is_learnt = format.is_ok_and(|text| self.decoder.learn(point, &text));
            if !is_learnt && point.name == ESSENTIAL {
                let fact = format!("the kernel's tracer has no {ESSENTIAL}, or an unknown one");
                let help = "a kernel of Proxmox or Debian has it".to_owned();
                return Err(Advised::new(fact, help).into());
            }
            if !is_learnt {
                self.missing.push(point.name);
                continue;
            }
            if let Some(filter) = filter {
                self.set(&format!("{event}/filter"), filter)?;
            }
            self.set(&format!("{event}/enable"), "1")?;
        }
        Ok(())
    }

    /// Begins or ends the recording.
    ///
    /// # Errors
    /// The kernel's.
    pub fn record(&self, is_on: bool) -> anyhow::Result<()> {
        let text = if is_on { "1" } else { "0" };
        for dir in [AROUND, ON_THEM] {
            self.set(&format!("{dir}/tracing_on"), text)?;
        }
        Ok(())
    }

    /// Appends what was recorded since the last time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn fetch(&mut self, records: &mut Vec<Record>) -> anyhow::Result<()> {
        for (dir, cpus) in [(ON_THEM, self.cpus.clone()), (AROUND, self.all.clone())] {
            for cpu in cpus.iter() {
                self.fetch_of(dir, cpu, records)?;
            }
        }
        Ok(())
    }

    fn fetch_of(&mut self, dir: &str, cpu: CpuId, records: &mut Vec<Record>) -> anyhow::Result<()> {
        let path = format!("{dir}/per_cpu/cpu{cpu}/trace_pipe_raw");
        let (mut n, mut before, mut is_torn) = (0, None::<u64>, false);
        let mut shortest = self.shortest_ns;
        let drained = self.files.drain(&path, MOST_PAGES, &mut |bytes| {
            let Some(page) = Page::new(bytes) else { return };
            is_torn |= page.is_torn;
            for record in page {
                n += 1;
                let passed = before
                    .replace(record.at)
                    .map(|at| record.at.saturating_sub(at));
                shortest = [shortest, passed]
                    .into_iter()
                    .flatten()
                    .filter(|ns| *ns > 0)
                    .min();
                if let Some((running, event)) = self.decoder.read(record.bytes) {
                    let at = record.at;
                    records.push(Record {
                        at,
                        cpu,
                        running,
                        event,
                    });
                }
            }
        });
        self.is_torn |= is_torn;
        if dir == ON_THEM {
            self.n_records += n;
            self.shortest_ns = shortest;
        }
        // A CPU that has gone offline has nothing more to tell.
        if_there(drained).map(drop).map_err(cannot("read", &path))
    }
}

impl Drop for Trace<'_> {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run or by reconcile.
        let _ = remove_instances(self.files);
    }
}

/// Removes what a measurement has left that was killed; tells whether there was anything. Nothing is touched
/// while one is at work.
///
/// # Errors
/// The kernel's.
pub fn remove_left_over(files: &dyn Files) -> anyhow::Result<bool> {
    if ![ON_THEM, AROUND].iter().any(|dir| files.exists(dir)) {
        return Ok(false);
    }
    let Ok(_lock) = lock(files) else {
        return Ok(false);
    };
    remove_instances(files).map_err(cannot("remove", ON_THEM))?;
    Ok(true)
}

fn lock(files: &dyn Files) -> anyhow::Result<Box<dyn LockGuard>> {
    let held = files.lock(LOCK, std::time::Duration::ZERO);
    held.map_err(cannot("lock", LOCK))?.ok_or_else(|| {
        let fact = "another measurement is running".to_owned();
        let help = "wait for it, or end it with ctrl-c where it runs".to_owned();
        Advised::new(fact, help).into()
    })
}

/// Recording ends first: the kernel removes no instance that is read or written.
fn remove_instances(files: &dyn Files) -> io::Result<()> {
    for dir in [ON_THEM, AROUND] {
        let _ = files.write(&format!("{dir}/tracing_on"), "0");
        if_there(files.remove_dir(dir))?;
    }
    Ok(())
}

/// Returns the filter for requests to these CPUs.
fn asked(cpus: &CpuSet) -> String {
    let ranges = cpus.to_string();
    let terms = ranges.split(',').map(|range| match range.split_once('-') {
        Some((first, last)) => format!("(cpu >= {first} && cpu <= {last})"),
        None => format!("cpu == {range}"),
    });
    terms.collect::<Vec<_>>().join(" || ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_names_the_cpus() {
        let cpus = "2-5,9".parse().unwrap();
        assert_eq!(asked(&cpus), "(cpu >= 2 && cpu <= 5) || cpu == 9");
    }
}
