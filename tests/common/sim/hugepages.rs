//! Pools of hugepages on the nodes (`mm/hugetlb.c`), and what makes room for them.

use std::collections::BTreeMap;
use std::io;

use super::{Sim, State, errno};

const NODES: &str = "/sys/devices/system/node/node";
const SIZE: &str = "hugepages/hugepages-2048kB";
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// Memory of a node outside of its pool, in pages of 2 MiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Room {
    /// That a growing pool finds: in whole pages, and in pieces that it puts together itself.
    pub found: u64,
    /// In pieces that nothing but compacting the whole node puts together.
    pub scattered: u64,
    /// In clean pages of files, in pieces.
    pub cached: u64,
}

/// Memory of the nodes.
pub type Rooms = BTreeMap<u32, Room>;

/// A pool as its files tell.
struct Pool {
    all: u64,
    free: u64,
    surplus: u64,
}

impl State {
    /// Puts the files of an empty pool.
    pub fn put_pool(&mut self, node: u32) {
        let empty = Pool {
            all: 0,
            free: 0,
            surplus: 0,
        };
        self.put_numbers(node, &empty);
        self.tree.put(&format!("{NODES}{node}/compact"), "", 0o200);
        let room = Room {
            found: 512,
            ..Room::default()
        };
        self.rooms.insert(node, room);
    }

    /// Writes to a pool, or has room made for it, when `path` is a file for that.
    pub fn hugepages_write(&mut self, path: &str, text: &str) -> Option<io::Result<()>> {
        let number = text.trim().parse::<u64>();
        if path == DROP_CACHES {
            for room in self.rooms.values_mut() {
                room.scattered += std::mem::take(&mut room.cached);
            }
            return Some(Ok(()));
        }
        let (node, file) = path.strip_prefix(NODES)?.split_once('/')?;
        let node = node.parse().ok()?;
        if file == "compact" {
            let room = self.rooms.get_mut(&node)?;
            room.found += std::mem::take(&mut room.scattered);
            return Some(Ok(()));
        }
        let is_size = file.strip_prefix(SIZE)? == "/nr_hugepages";
        let number = number.map_err(|_| errno(libc::EINVAL));
        is_size.then(|| number.map(|number| self.resize(node, number)))
    }

    /// Pages in use stay: what is asked for below that makes them surplus ones.
    fn resize(&mut self, node: u32, wanted: u64) {
        let mut pool = self.pool(node);
        let room = self.rooms.entry(node).or_default();
        let persistent = pool.all - pool.surplus;
        if wanted > persistent {
            let kept = pool.surplus.min(wanted - persistent);
            pool.surplus -= kept;
            let grown = room.found.min(wanted - persistent - kept);
            room.found -= grown;
            pool.all += grown;
            pool.free += grown;
        } else {
            let freed = pool.free.min(persistent - wanted);
            room.found += freed;
            pool.all -= freed;
            pool.free -= freed;
            pool.surplus += persistent - freed - wanted;
        }
        self.put_numbers(node, &pool);
    }

    fn pool(&self, node: u32) -> Pool {
        let number = |file: &str| {
            let text = self.tree.read(&format!("{NODES}{node}/{SIZE}/{file}"));
            text.ok().and_then(|text| text.trim().parse().ok()).unwrap()
        };
        Pool {
            all: number("nr_hugepages"),
            free: number("free_hugepages"),
            surplus: number("surplus_hugepages"),
        }
    }

    fn put_numbers(&mut self, node: u32, pool: &Pool) {
        for (file, number) in [
            ("nr_hugepages", pool.all),
            ("free_hugepages", pool.free),
            ("surplus_hugepages", pool.surplus),
        ] {
            let path = format!("{NODES}{node}/{SIZE}/{file}");
            let mode = if file == "nr_hugepages" { 0o644 } else { 0o444 };
            self.tree.put(&path, &format!("{number}\n"), mode);
        }
    }
}

impl Sim {
    /// Gives a node so much memory outside of its pool.
    pub fn room(&self, node: u32, room: Room) {
        self.state().rooms.insert(node, room);
    }

    /// PVE sets every pool to what the kernel's command line says, which is nothing.
    pub fn pve_frees_pages(&self) {
        let mut state = self.state();
        for node in state.rooms.keys().copied().collect::<Vec<_>>() {
            state.resize(node, 0);
        }
    }

    /// A process takes pages of a pool.
    pub fn take_pages(&self, node: u32, n_pages: u64) {
        let mut state = self.state();
        let mut pool = state.pool(node);
        pool.free = pool.free.checked_sub(n_pages).expect("pages that are free");
        state.put_numbers(node, &pool);
    }

    /// A process that has taken them ends.
    pub fn leave_pages(&self, node: u32, n_pages: u64) {
        let mut state = self.state();
        let mut pool = state.pool(node);
        let gone = pool.surplus.min(n_pages);
        pool.surplus -= gone;
        pool.all -= gone;
        pool.free += n_pages - gone;
        state.rooms.entry(node).or_default().found += gone;
        state.put_numbers(node, &pool);
    }
}
