//! What the doctor reads of a host grows as the host does, all kinds of size together.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use pin_hook::host::Host;
use pin_hook::host::clock::KernelClock;
use pin_hook::host::files::{Files, Owner, RootFiles};
use pin_hook::host::limit::Limit;
use pin_hook::host::once::Once;
use pin_hook::host::qmp::QmpSockets;
use pin_hook::host::sched::CapturedSched;
use pin_hook::host::systemd::Bus;
use pin_hook::lifecycle::show::doctor::examine;

use crate::hosts;

/// What was asked of the files of a host.
#[derive(Debug, Default)]
struct Cost {
    calls: Cell<u64>,
    bytes: Cell<u64>,
}

#[derive(Debug, Clone)]
struct Counted {
    files: RootFiles,
    cost: Rc<Cost>,
}

impl Counted {
    fn call(&self) {
        self.cost.calls.set(self.cost.calls.get() + 1);
    }

    fn text(&self, answer: io::Result<String>) -> io::Result<String> {
        self.call();
        let read = answer.as_ref().map_or(0, |text| text.len() as u64);
        self.cost.bytes.set(self.cost.bytes.get() + read);
        answer
    }
}

impl Files for Counted {
    fn read(&self, path: &str) -> io::Result<String> {
        self.text(self.files.read(path))
    }
    fn read_within(&self, path: &str, limit: usize) -> io::Result<String> {
        self.text(self.files.read_within(path, limit))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.call();
        self.files.list(dir)
    }
    fn exists(&self, path: &str) -> bool {
        self.call();
        self.files.exists(path)
    }
    fn link(&self, path: &str) -> io::Result<String> {
        self.call();
        self.files.link(path)
    }
    fn owner(&self, path: &str) -> io::Result<Owner> {
        self.call();
        self.files.owner(path)
    }
}

/// Returns calls and bytes of an examination of a host with `n` times 64 CPUs, 128 interrupts and 8 VMs.
fn cost(n: u32) -> (u64, u64) {
    let (_dir, files) = hosts::scaled(n);
    let cost = Rc::new(Cost::default());
    let files = Counted {
        files,
        cost: Rc::clone(&cost),
    };
    let host = Host {
        files: Box::new(Once::new(Box::new(files.clone()))),
        sched: Box::new(CapturedSched(files)),
        systemd: Box::new(Bus::default()),
        qmp: Box::new(QmpSockets::default()),
        clock: Box::new(KernelClock),
        limit: Limit::default(),
    };
    let diagnosis = examine(&host, None).unwrap();
    // The host is one of them.
    assert_eq!(diagnosis.patients.len(), 8 * n as usize + 1);
    (cost.calls.get(), cost.bytes.get())
}

/// The larger one has 4096 CPUs, 8192 interrupts and 512 VMs.
#[test]
fn twice_the_host_takes_twice_the_reading() {
    let (small, large) = (cost(32), cost(64));
    for (what, one, two) in [("calls", small.0, large.0), ("bytes", small.1, large.1)] {
        assert!(
            two * 10 <= one * 21,
            "{what}: {one}, and {two} for twice as much"
        );
    }
}
