//! L3 domains with little cache, on hosts where others have much more.

use crate::domain::topology::Topology;

/// A cache that is this many times as large as another one is a reason to prefer it (X3D parts
/// have 96 and 32 MiB).
const LARGER_CACHE: u64 = 2;

/// Tells whether another L3 domain of the host has much more cache.
pub(super) fn is_small(topology: &Topology, l3: usize) -> bool {
    let domains = topology.l3_domains();
    let largest = domains.iter().filter_map(|domain| domain.kib).max();
    let kib = domains.get(l3).and_then(|domain| domain.kib);
    matches!((kib, largest), (Some(kib), Some(largest)) if largest >= kib.saturating_mul(LARGER_CACHE))
}
