//! `/sys/devices/virtual/workqueue` and the soft lockup watchdog: what the kernel runs on every
//! CPU and can be kept off some (`Documentation/core-api/workqueue.rst`).
//!
//! Reads only; the masks are written as knobs.

use std::collections::BTreeMap;

use super::{Host, target};
use crate::domain::cpuset::CpuSet;
use crate::domain::target::{Target, Value};

const QUEUE_DIR: &str = "/sys/devices/virtual/workqueue";

/// Returns the masks that this kernel has. Only unbound workqueues have one.
pub fn masks(host: &Host) -> BTreeMap<Target, CpuSet> {
    let names = host.files.list(QUEUE_DIR).unwrap_or_default();
    let queues = names.into_iter().map(Target::queue);
    let targets = Target::work_of_host().into_iter().chain(queues);
    let masks = targets.filter_map(|target| match target::read(host, &target) {
        Ok(Value::Cpus(cpus)) => Some((target, cpus)),
        _ => None,
    });
    masks.collect()
}
