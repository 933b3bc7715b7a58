//! The CPU that the host boots on, which it can do without least.

use crate::domain::cpuset::CpuId;
use crate::domain::placement::small_cache::is_small;
use crate::domain::topology::Topology;

/// CPU that the host boots on: timers and interrupts that cannot move are served there.
pub(super) const BOOT_CPU: CpuId = CpuId(0);

/// Tells whether the boot CPU is where the cache is: then a VM may be worth more there than the
/// host, as on X3D parts.
pub(super) fn boots_on_large_cache(topology: &Topology) -> bool {
    let boot = topology.l3_index_of(BOOT_CPU);
    let mut all = 0..topology.l3_domains().len();
    boot.is_some_and(|n| !is_small(topology, n)) && all.any(|n| is_small(topology, n))
}
