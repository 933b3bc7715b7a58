//! Pools of hugepages, one for each NUMA node and size
//! (`Documentation/admin-guide/mm/hugetlbpage.rst`), and what makes room for them.
//!
//! Making room moves memory, which takes seconds to minutes: those files are written by a child
//! ([`super::errand`]). A pool shrinks only by pages that are free, and caches that were dropped are gone.

use std::io;

use super::files::Files;
use crate::domain::memory::Pool;
use crate::domain::pools::Pages;

/// Drops clean pages of files and nothing else when `1` is written.
pub const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";
const NODES: &str = "/sys/devices/system/node";
const SIZES: &str = "/sys/kernel/mm/hugepages";
const ARC_STATS: &str = "/proc/spl/kstat/zfs/arcstats";

/// Returns what there is in a pool now.
///
/// # Errors
/// There is no such pool.
pub fn pages(files: &dyn Files, pool: Pool) -> io::Result<Pages> {
    Ok(Pages {
        persistent: persistent(files, pool)?,
        free: number(files, pool, "free_hugepages")?,
    })
}

/// Returns how many pages stay in a pool: what a process has taken beside it goes when that ends, and is no
/// wish of anybody. `nr_hugepages` shows both, and what is written to it means these (`set_max_huge_pages()` in
/// `mm/hugetlb.c`).
///
/// # Errors
/// There is no such pool.
pub fn persistent(files: &dyn Files, pool: Pool) -> io::Result<u64> {
    let all = number(files, pool, "nr_hugepages")?;
    Ok(all.saturating_sub(number(files, pool, "surplus_hugepages")?))
}

fn number(files: &dyn Files, pool: Pool, name: &str) -> io::Result<u64> {
    let text = files.read(&format!("{NODES}/node{pool}/{name}"))?;
    text.trim().parse().map_err(io::Error::other)
}

/// Returns the file that compacts the memory of a node when `1` is written.
pub fn compact_file(node: u32) -> String {
    format!("{NODES}/node{node}/compact")
}

/// Tells whether the host has pages of 1 GiB.
pub fn has_gigantic(files: &dyn Files) -> bool {
    files.exists(&format!("{SIZES}/hugepages-1048576kB"))
}

/// Returns how many bytes the cache of ZFS holds, which is not among what is dropped.
pub fn zfs_cache(files: &dyn Files) -> Option<u64> {
    let text = files.read(ARC_STATS).ok()?;
    let mut lines = text.lines().map(|line| line.split_whitespace());
    lines.find_map(|mut words| match words.next() {
        Some("size") => words.nth(1)?.parse().ok(),
        _ => None,
    })
}
