//! Pools of hugepages, and what VMs that are started at the same time need of them.
//!
//! PVE takes hugepages for a VM right before it starts QEMU and tries once. Afterwards it sets the
//! pools of that size to what the kernel's command line says, which leaves the pages in use alone and
//! frees all others (`PVE/QemuServer/Memory.pm`). So what a start needs is added to the pools before,
//! and is nobody's business any more once QEMU has taken it.

use super::claim::{Claim, Claims};
use super::memory::{Pool, Share};
use super::vm::Vmid;

/// Pages of a pool at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pages {
    /// Those that stay in the pool when they are not used (`nr_hugepages` without surplus).
    pub persistent: u64,
    /// Those that nobody uses.
    pub free: u64,
}

/// Returns a VM's share of a pool, next to the claims of others; `before` is what the pool had before
/// any of them.
pub fn share(
    vmid: Vmid,
    (pool, needed): (Pool, u64),
    before: u64,
    now: Pages,
    claims: &Claims,
) -> Share {
    let others = || starting(claims).filter(|claim| claim.vmid != vmid);
    let theirs = || others().flat_map(|claim| of_pool(claim, pool));
    let wanted: u64 = needed + theirs().map(|share| share.needed).sum::<u64>();
    let whole = now.persistent + wanted.saturating_sub(now.free);
    let added_by_others: u64 = theirs().map(|share| share.added).sum();
    Share {
        pool,
        needed,
        before,
        added: whole.saturating_sub(before + added_by_others),
    }
}

/// Returns the claims of VMs that are being started.
pub fn starting(claims: &Claims) -> impl Iterator<Item = &Claim> {
    claims.values().filter(|claim| claim.state.is_reserved())
}

/// Returns the shares that a claim has of a pool.
pub fn of_pool(claim: &Claim, pool: Pool) -> impl Iterator<Item = &Share> {
    let shares = claim.wishes.memory.shares.iter();
    shares.filter(move |share| share.pool == pool)
}
