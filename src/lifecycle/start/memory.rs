//! Where a guest's memory comes from: pools of hugepages are filled while the VM is started, without
//! the host lock, and are none of ours any more once QEMU has taken its pages.
//!
//! Growing moves and compacts memory, for seconds to minutes, in a child. A pool shrinks only by pages that are
//! free, and caches that were dropped are gone.

use std::time::Duration;

use crate::domain::claim::ClaimState;
use crate::domain::memory::{MemoryFault, MemoryWishes, Pool, Share};
use crate::domain::pools::{self, Pages};
use crate::domain::state::{Record, State};
use crate::domain::table::Hugepages;
use crate::domain::target::Target;
use crate::domain::vm::Vmid;
use crate::host::clock::awaiting;
use crate::host::errand::Errand;
use crate::host::{Host, hugepages, task};
use crate::lifecycle::case::resolve::Resolved;
use crate::lifecycle::case::texts::Case;
use crate::lifecycle::engine::account::{Account, Exit, Level};
use crate::lifecycle::engine::journal::read_state;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::engine::work::update_claim;

/// How long one waits before the kernel is asked for missing pages again.
const PAUSE: Duration = Duration::from_secs(1);

/// Returns what the claim of a VM is to say about memory.
///
/// Only a start can choose: memory that QEMU has is not moved (that of a passed-through device could
/// not be), so the claim of a VM that runs keeps what it says.
///
/// # Errors
/// The pools cannot be read.
pub fn for_claim(
    host: &Host,
    vmid: Vmid,
    resolved: &Resolved,
    state: &ClaimState,
    now: &State,
) -> anyhow::Result<MemoryWishes> {
    if !state.is_reserved() {
        let known = now.claims.get(&vmid);
        let known = known.map(|claim| claim.wishes.memory.clone());
        return Ok(known.unwrap_or_default());
    }
    let shares = resolved.pools.iter().filter_map(|(pool, needed)| {
        // PVE says what is wrong with a size that the host does not have.
        let pages = hugepages::pages(&*host.files, *pool).ok()?;
        let held = now.held.get(&Target::Hugepages(*pool));
        let before = held.and_then(|held| held.baseline.to_string().parse().ok());
        let before = before.unwrap_or(pages.persistent);
        let asked = (*pool, *needed);
        Some(pools::share(vmid, asked, before, pages, &now.claims))
    });
    Ok(MemoryWishes {
        nodes: resolved.wishes.memory.nodes.clone(),
        shares: shares.collect(),
    })
}

impl Run<'_> {
    /// Fills the pools that the start of a VM needs, and waits for that as long as the table says.
    ///
    /// # Errors
    /// The pools cannot be read, or a claim cannot be ended.
    pub(in crate::lifecycle) fn fill_pools(
        &self,
        case: &Case,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let Some(wish) = &case.table.memory.hugepages else {
            return Ok(());
        };
        let vmid = case.vmid;
        // The wait is the table's; what it may cost to give back is not part of it.
        let left = self.host.left();
        let filling = Filling {
            run: self,
            vmid,
            wish,
            until: self.host.clock.since_boot() + wish.timeout.duration(),
        };
        self.host
            .allow(left.saturating_add(wish.timeout.duration()));
        let what = format!("hugepages ({} at most)", wish.timeout);
        let wait = awaiting(&*self.host.clock, &what);
        let short = filling.fill(account);
        drop(wait);
        self.host.allow(left);
        if let Some(fault) = short? {
            return self.start_short(case, &fault, account);
        }
        for Wanted { share, .. } in filling.wanted()? {
            let (pool, needed) = (share.pool, share.needed);
            account.info(format!(
                "vm {vmid}: {needed} hugepages of {} are ready on node {}",
                pool.size(),
                pool.node
            ));
        }
        Ok(())
    }

    /// A start that PVE would fail is refused with the reason, and what was added goes back at once;
    /// where nobody is there to read it, PVE decides.
    fn start_short(
        &self,
        case: &Case,
        fault: &MemoryFault,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let vmid = case.vmid;
        let text = format!("vm {vmid}: {fault}");
        if !self.aborts(vmid, case.table.start.on_refusal) {
            account.warn(format!("{text}; pve will try to find the others"));
            account.say(Level::Help, fault.help(Some(vmid)));
            return Ok(());
        }
        account.fail(Exit::Refused, text, fault.help(Some(vmid)));
        update_claim(self.host, vmid, account, |_| Record::End(vmid))
    }
}

/// One filling of pools.
struct Filling<'r, 'h> {
    run: &'r Run<'h>,
    vmid: Vmid,
    wish: &'r Hugepages,
    /// Time since boot after which it is given up.
    until: Duration,
}

/// What one start needs of a pool, among the others.
struct Wanted {
    share: Share,
    /// Pages that the pool is to have for all of them.
    all: u64,
    /// Pages that other starts need of it.
    others: u64,
}

impl Filling<'_, '_> {
    /// Asks for the pages until they are there; returns what is missing when the time is over.
    fn fill(&self, account: &mut Account) -> anyhow::Result<Option<MemoryFault>> {
        let mut is_compacted = false;
        let mut has_dropped = false;
        loop {
            for wanted in self.short()? {
                let path = Target::Hugepages(wanted.share.pool).path();
                self.ask(&path, &wanted.all.to_string(), account);
            }
            let short = self.short()?;
            let Some(first) = short.first() else {
                return Ok(None);
            };
            let is_over = self.left().is_zero() || !self.is_awaited();
            if is_over || !self.wish.compact {
                return Ok(Some(self.missing(first)));
            }
            if has_dropped {
                self.pause();
            }
            // The pool that grows has compacted memory by itself; this is for what it did not find. Compacting
            // alone is tried first: caches are of use to others.
            if is_compacted && !has_dropped {
                self.tell_of_zfs(account);
                self.ask(hugepages::DROP_CACHES, "1", account);
                has_dropped = true;
            }
            for wanted in &short {
                self.ask(
                    &hugepages::compact_file(wanted.share.pool.node),
                    "1",
                    account,
                );
            }
            is_compacted = true;
        }
    }

    /// Returns what the start needs. It is looked at anew each time: when the QEMU of another start
    /// is up, PVE frees what has not been taken, and takes the rest for this one itself.
    fn wanted(&self) -> anyhow::Result<Vec<Wanted>> {
        let state = read_state(&*self.run.host.files)?;
        let own = state.claims.get(&self.vmid);
        let shares = own
            .into_iter()
            .flat_map(|claim| &claim.wishes.memory.shares);
        let wanted = shares.filter_map(|share| {
            let held = state.held.get(&Target::Hugepages(share.pool))?;
            let others = pools::starting(&state.claims).filter(|claim| claim.vmid != self.vmid);
            let others = others.flat_map(|claim| pools::of_pool(claim, share.pool));
            Some(Wanted {
                share: share.clone(),
                all: held.ours.to_string().parse().ok()?,
                others: others.map(|share| share.needed).sum(),
            })
        });
        Ok(wanted.collect())
    }

    fn short(&self) -> anyhow::Result<Vec<Wanted>> {
        let mut wanted = self.wanted()?;
        wanted.retain(|wanted| {
            let pages = self.pages(wanted.share.pool);
            pages.persistent < wanted.all && pages.free < wanted.share.needed + wanted.others
        });
        Ok(wanted)
    }

    /// Has a child write, which takes its time; what the kernel refuses shows in the pools.
    fn ask(&self, path: &str, text: &str, account: &mut Account) {
        if let Err(error) = Errand::of_file(path, &[text]).complete(self.run.host, self.left()) {
            account.warn(format!("vm {}: {path}: {error}", self.vmid));
        }
    }

    /// Returns what there is in a pool; nothing of one that has gone with its node.
    fn pages(&self, pool: Pool) -> Pages {
        let none = Pages {
            persistent: 0,
            free: 0,
        };
        hugepages::pages(&*self.run.host.files, pool).unwrap_or(none)
    }

    fn missing(&self, wanted: &Wanted) -> MemoryFault {
        let pool = wanted.share.pool;
        MemoryFault::Short {
            pool,
            free: self.pages(pool).free.saturating_sub(wanted.others),
            needed: wanted.share.needed,
            compacts: self.wish.compact,
        }
    }

    fn left(&self) -> Duration {
        let now = self.run.host.clock.since_boot();
        self.until.saturating_sub(now)
    }

    /// Tells whether whoever started the VM still waits.
    fn is_awaited(&self) -> bool {
        task::alive(&*self.run.host.files, self.run.caller.process)
    }

    fn pause(&self) {
        let starter = [self.run.caller.process];
        let wait = PAUSE.min(self.left());
        self.run.host.clock.wait_for_end(&starter, wait);
    }

    fn tell_of_zfs(&self, account: &mut Account) {
        const GIB: u64 = 1 << 30;
        if let Some(bytes) = hugepages::zfs_cache(&*self.run.host.files).filter(|n| *n >= GIB) {
            account.warn(format!(
                "vm {}: the zfs cache uses {} GiB and shrinks slowly: lower \
                 /sys/module/zfs/parameters/zfs_arc_max",
                self.vmid,
                bytes / GIB
            ));
        }
    }
}
