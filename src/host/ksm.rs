//! `/sys/kernel/mm/ksm`: merged memory pages (`Documentation/admin-guide/mm/ksm.rst`).

use super::files::Files;
use super::meminfo::available;

/// Size of a page of memory on x86-64, in kB.
const PAGE_KB: u64 = 4;

/// Tells whether there is memory enough to take all merged pages apart: one and a half times what
/// they will need, because the kernel kills a process where memory runs out meanwhile.
pub fn may_unmerge(files: &dyn Files) -> bool {
    let sharing = files.read("/sys/kernel/mm/ksm/pages_sharing").ok();
    let sharing = sharing.and_then(|text| text.trim().parse::<u64>().ok());
    sharing
        .zip(available(files))
        .is_some_and(|(pages, available)| available > pages * PAGE_KB * 3 / 2)
}
