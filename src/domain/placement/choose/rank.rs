//! What the operator prefers, as numbers of cores and caches.

use std::collections::BTreeSet;

use super::search::Search;
use crate::domain::placement::small_cache::is_small;
use crate::domain::table::Prefer;
use crate::domain::topology::{Core, Topology};

/// The numbers for one search.
#[derive(Clone, Copy)]
pub(super) struct Rank<'a, 't>(pub(super) &'a Search<'t>);

impl Rank<'_, '_> {
    /// Returns how fast a core is, if speed is asked for; otherwise all are alike.
    pub(super) fn speed(self, core: &Core) -> u64 {
        let speeds = match self.0.prefer {
            Some(Prefer::Frequency) => &self.0.speeds.max_khz,
            Some(Prefer::Performance) => &self.0.speeds.performance,
            Some(Prefer::Cache | Prefer::Efficiency) | None => return 0,
        };
        let speed = core.cpus.first().and_then(|cpu| speeds.get(&cpu));
        speed.copied().unwrap_or(0)
    }

    /// Returns the speed of the slowest of some cores.
    pub(super) fn slowest(self, cores: &[&Core]) -> u64 {
        let speeds = cores.iter().map(|core| self.speed(core));
        speeds.min().unwrap_or(0)
    }

    /// Returns what speaks against L3 domains: the number of those that are small, or where cache is
    /// asked for how much less than the largest one the smallest has for each core.
    pub(super) fn against_caches(self, domains: &BTreeSet<Option<usize>>) -> u64 {
        let topology = self.0.topology;
        match self.0.prefer {
            Some(Prefer::Frequency | Prefer::Performance) => 0,
            Some(Prefer::Cache) => {
                let least = domains.iter().map(|l3| cache_of_core(topology, *l3)).min();
                largest(topology).saturating_sub(least.unwrap_or(0))
            }
            Some(Prefer::Efficiency) | None => {
                let small = domains
                    .iter()
                    .flatten()
                    .filter(|l3| is_small(topology, **l3));
                u64::try_from(small.count()).unwrap_or(u64::MAX)
            }
        }
    }

    /// Tells whether another L3 domain than this one is preferred for its cache.
    pub(super) fn is_small(self, l3: Option<usize>) -> bool {
        let topology = self.0.topology;
        match self.0.prefer {
            Some(Prefer::Frequency | Prefer::Performance) => false,
            Some(Prefer::Cache) => cache_of_core(topology, l3) < largest(topology),
            Some(Prefer::Efficiency) | None => l3.is_some_and(|l3| is_small(topology, l3)),
        }
    }
}

/// Returns the KiB of an L3 domain for each of its cores; none where there is no cache.
fn cache_of_core(topology: &Topology, l3: Option<usize>) -> u64 {
    let domain = l3.and_then(|n| topology.l3_domains().get(n));
    let Some(domain) = domain else {
        return 0;
    };
    let n_cores = topology.first_of_cores(&domain.cpus).len().max(1);
    domain.kib.unwrap_or(0) / u64::try_from(n_cores).unwrap_or(1)
}

fn largest(topology: &Topology) -> u64 {
    let all = 0..topology.l3_domains().len();
    let all = all.map(|n| cache_of_core(topology, Some(n)));
    all.max().unwrap_or(0)
}
