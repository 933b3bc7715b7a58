//! A node with VMs, and what PVE, QEMU and the units do around the program.

use std::cell::Cell;
use std::time::Duration;

use pin_hook::domain::claim::{Claim, ClaimState};
use pin_hook::domain::cpuset::CpuSet;
use pin_hook::domain::desired::has_partition;
use pin_hook::domain::state::State;
use pin_hook::domain::vm::{TaskId, Vmid};
use pin_hook::host::Host;
use pin_hook::lifecycle::engine::account::{Account, Exit};
use pin_hook::lifecycle::engine::journal::{Damage, Newer, read, read_state};
use pin_hook::lifecycle::engine::run::{Caller, PHASE_TIME, Run};
use pin_hook::lifecycle::show::plan::Plan;
use pin_hook::lifecycle::start::phase::Phase;

use crate::common::sim::capture::{Capture, diff};
use crate::common::sim::irq::Kind;
use crate::common::sim::task::Task;
use crate::common::sim::{Machine, Sim, TaskSpec, VmSpec, cpus};

/// Name of PVE's process that starts or stops a VM.
const WORKER: &str = "task UPID";
/// Cgroup of that process.
const PVEDAEMON: &str = "/system.slice/pvedaemon.service";
/// Period of the timer that runs reconcile.
const PERIOD: Duration = Duration::from_secs(15);
/// Runs of reconcile after which nothing may be left to do.
const MAX_RUNS: usize = 5;

/// A VM with two vCPUs on CPUs 2 and 3.
pub const CONF: &str = "cores: 2\nmemory: 1024\nhookscript: local:snippets/pin-hook\n";
/// The same without the hookscript.
pub const CONF_WITHOUT_HOOK: &str = "cores: 2\nmemory: 1024\n";

/// Returns what a log amounts to, and what of it is damaged.
pub fn parse(log: &str) -> Result<(State, Damage), Newer> {
    read(log).map(|log| (log.state, log.damage))
}

/// A node and the program on it.
#[derive(Debug)]
pub struct World {
    pub sim: Sim,
    pub host: Host,
    worker: Cell<i32>,
    time: Cell<Duration>,
    migrated_from: Cell<&'static str>,
}

impl World {
    /// Returns a node without VMs.
    pub fn on(sim: Sim) -> Self {
        // The package is installed here, and has told the other nodes.
        let announced = concat!("# pin-hook ", env!("CARGO_PKG_VERSION"), "\n");
        sim.put("/etc/pve/pin-hook/nodes/pve1", announced);
        World {
            host: sim.host(),
            sim,
            worker: Cell::new(0),
            time: Cell::new(PHASE_TIME),
            migrated_from: Cell::new(""),
        }
    }

    /// Loses what is remembered of this boot, and all else in the directory of the program.
    pub fn lose_state(&self) {
        self.sim.state().tree.remove_all("/run/pin-hook");
    }

    /// Returns the lab's node without VMs.
    pub fn lab() -> Self {
        World::of(&Machine::default())
    }

    /// Returns a node, with few of what there is one of for each CPU: a death at any write takes
    /// no longer to be proven than there are writes.
    pub fn of(machine: &Machine) -> Self {
        let sim = machine.build();
        let (tasks, irqs): (Vec<i32>, Vec<u32>) = {
            let state = sim.state();
            let bound = state.tasks.iter().filter(|task| task.refuses_affinity());
            let tasks = bound.filter(|task| task.mask != cpus("2"));
            let managed = state
                .irqs
                .iter()
                .filter(|(_, irq)| irq.kind == Kind::Managed);
            let irqs = managed.filter(|(_, irq)| !irq.affinity.is_subset(&cpus("2-3")));
            let tids = tasks.map(|task| task.tid);
            (tids.collect(), irqs.map(|(number, _)| *number).collect())
        };
        tasks.into_iter().for_each(|tid| sim.kill(tid));
        irqs.into_iter().for_each(|number| sim.remove_irq(number));
        World::on(sim)
    }

    /// Returns a second node that is as this one is now and goes its own way from here.
    pub fn fork(&self) -> Self {
        let sim = self.sim.fork();
        World {
            host: sim.host(),
            sim,
            worker: self.worker.clone(),
            time: self.time.clone(),
            migrated_from: self.migrated_from.clone(),
        }
    }

    /// Returns the lab's node with VM 100, hooked, which has CPUs 2 and 3.
    pub fn with_vm() -> Self {
        World::lab().vm(100, CONF, "cpus = \"2-3\"\n")
    }

    /// Returns the same with VM 101, which has CPUs 4 and 5.
    pub fn with_two_vms() -> Self {
        World::with_vm().vm(101, CONF, "cpus = \"4-5\"\n")
    }

    /// Adds a VM with a table.
    pub fn vm(self, vmid: u32, conf: &str, table: &str) -> Self {
        self.sim.vm_conf(vmid, conf);
        self.sim.table(vmid, table);
        self
    }

    /// Lets the next calls of the program have so much time.
    pub fn allow(&self, time: Duration) {
        self.time.set(time);
    }

    /// Lets the next calls be about a VM that migrates from another node.
    pub fn migrating_from(&self, node: &'static str) {
        self.migrated_from.set(node);
    }

    fn run<T>(&self, process: TaskId, act: impl FnOnce(&Run<'_>) -> T) -> T {
        let caller = Caller {
            process,
            group: PVEDAEMON.to_owned(),
            migrated_from: self.migrated_from.get().to_owned(),
        };
        act(&Run::begin(&self.host, caller, self.time.get()))
    }

    /// Returns PVE's worker, which is born at the first call and ends by [`World::end_worker`].
    fn worker_id(&self) -> TaskId {
        let is_there = self.sim.state().tasks.get(self.worker.get()).is_some();
        if !is_there {
            let spec = TaskSpec::named(WORKER).in_cgroup(PVEDAEMON);
            self.worker.set(self.sim.spawn(spec));
        }
        let worker = self.sim.task(self.worker.get());
        TaskId {
            tid: worker.tid,
            start: worker.start,
        }
    }

    /// Somebody takes a CPU for a partition of his own.
    pub fn foreign_partition(&self, cpu: &str) {
        for (file, text) in [
            ("cgroup.subtree_control", "+cpuset"),
            ("system.slice/cpuset.cpus.exclusive", cpu),
            ("system.slice/cpuset.cpus", cpu),
            ("system.slice/cpuset.cpus.partition", "root"),
        ] {
            let path = format!("/sys/fs/cgroup/{file}");
            self.sim.poke(&path, text).unwrap();
        }
    }

    /// PVE's worker has done its work, or was killed.
    pub fn end_worker(&self) {
        let worker = self.worker.take();
        if self.sim.state().tasks.get(worker).is_some() {
            self.sim.kill(worker);
        }
    }

    pub fn phase(&self, phase: Phase, vmid: u32) -> Account {
        self.run(self.worker_id(), |run| run.phase(phase, id(vmid)))
    }

    pub fn apply(&self, vmid: u32) -> Account {
        self.run(self.worker_id(), |run| run.apply(id(vmid)))
    }

    /// Returns what a start of a VM would change.
    pub fn plan(&self, vmid: u32) -> Plan {
        self.run(self.worker_id(), |run| run.plan(id(vmid)).unwrap())
    }

    pub fn release(&self, vmid: Option<u32>) -> Account {
        self.run(self.worker_id(), |run| run.release(vmid.map(id)))
    }

    /// Returns the VMs that own CPUs.
    pub fn owners(&self) -> Vec<Vmid> {
        let state = read_state(&*self.host.files).expect("a journal that can be read");
        let running = state.claims.values().filter(|claim| claim.is_running());
        running.map(|claim| claim.vmid).collect()
    }

    /// Releases every VM but these.
    pub fn release_but(&self, kept: &[Vmid]) {
        for vmid in self
            .owners()
            .into_iter()
            .filter(|vmid| !kept.contains(vmid))
        {
            self.run(self.worker_id(), |run| run.release(Some(vmid)));
        }
    }

    /// The timer runs reconcile, one period later.
    pub fn reconcile(&self) -> Account {
        self.sim.advance(PERIOD);
        self.sim.work_on_jobs();
        let systemd = TaskId {
            tid: 1,
            start: self.sim.task(1).start,
        };
        self.run(systemd, |run| run.reconcile())
    }

    /// The timer runs reconcile until that writes nothing any more; fails when it never ends.
    pub fn reconcile_until_quiet(&self) -> Result<(), String> {
        let mut writes = self.writes();
        for _ in 0..MAX_RUNS {
            self.reconcile();
            writes = self.writes();
            if writes.is_empty() {
                return Ok(());
            }
        }
        Err(format!("reconcile still writes: {writes:#?}\n"))
    }

    /// Returns what the program wrote since the log was last taken. Starting a unit that runs,
    /// stopping one that does not and making a directory that is there are nothing.
    pub fn writes(&self) -> Vec<String> {
        let nothing = ["start ", "stop ", "make_dir /run/pin-hook"];
        let log = self.sim.take_log().into_iter();
        log.filter(|op| !nothing.iter().any(|start| op.starts_with(start)))
            .collect()
    }

    /// PVE's `vm_start` up to the moment when QEMU is up.
    pub fn launch(&self, vmid: u32, spec: &VmSpec) {
        self.sim
            .start_vm_as(vmid, spec)
            .expect("nothing refuses this VM");
    }

    /// PVE starts a VM with two vCPUs.
    #[track_caller]
    pub fn start(&self, vmid: u32) {
        self.start_as(vmid, &VmSpec::with_vcpus(2));
    }

    /// PVE starts a VM whose hook is set.
    #[track_caller]
    pub fn start_as(&self, vmid: u32, spec: &VmSpec) {
        done(self.phase(Phase::PreStart, vmid));
        self.launch(vmid, spec);
        done(self.phase(Phase::PostStart, vmid));
        self.end_worker();
    }

    /// PVE stops a VM.
    #[track_caller]
    pub fn stop(&self, vmid: u32) {
        self.end_qemu(vmid);
        done(self.phase(Phase::PostStop, vmid));
        self.end_worker();
    }

    /// QEMU ends, and PVE removes what a kill leaves behind.
    pub fn end_qemu(&self, vmid: u32) {
        self.sim.end_qemu(vmid);
    }

    /// Systemd looks at a unit, as it does whenever something starts, ends or changes. Only then
    /// does it take away a controller at the root that nobody needs any more.
    pub fn systemd_looks_at_a_unit(&self) {
        self.sim.set_property("system.slice");
    }

    /// Returns the host's state without what belongs to the program itself: its directory, and
    /// the delegation of the scopes of hooked VMs, which stays until the next boot.
    pub fn capture(&self) -> Capture {
        // The worker's number is in the files of its cgroup.
        let mut without = vec![
            "/run/pin-hook".to_owned(),
            format!("/sys/fs/cgroup{PVEDAEMON}"),
        ];
        // What the hardware is like; nobody can write there.
        for cpu in 0..8 {
            let dir = format!("/sys/devices/system/cpu/cpu{cpu}");
            without.extend([format!("{dir}/topology"), format!("{dir}/cache")]);
        }
        let hooked = self
            .sim
            .state()
            .list("/etc/pve/qemu-server")
            .unwrap_or_default();
        for name in hooked {
            let text = self.sim.get(&format!("/etc/pve/qemu-server/{name}"));
            let vmid = name.trim_end_matches(".conf");
            if text.contains("hookscript:") {
                without.push(format!("/run/systemd/system/{vmid}.scope.d"));
            }
        }
        let without: Vec<&str> = without.iter().map(String::as_str).collect();
        let mut capture = self.sim.capture(&without);
        // Which of the CPUs that an interrupt may go to it does go to is up to the kernel.
        capture.retain(|name, _| !name.contains(WORKER) && !name.contains("/effective_affinity"));
        capture
            .values_mut()
            .for_each(|text| *text = without_request(text));
        capture
    }

    /// Returns what the program remembers of a VM.
    pub fn claim(&self, vmid: u32) -> Option<Claim> {
        let state = read_state(&*self.host.files).expect("a journal that can be read");
        state.claims.get(&id(vmid)).cloned()
    }

    /// Returns how far the claim of a VM has come, or `none`.
    pub fn claim_state(&self, vmid: u32) -> String {
        self.claim(vmid)
            .map_or("none".to_owned(), |claim| claim.state.to_string())
    }

    /// Asserts that pre-start refuses and leaves the host as it was, its devices too.
    #[track_caller]
    pub fn assert_refuses_start(&self, error: &str) {
        let before = self.capture();
        let account = self.phase(Phase::PreStart, 100);
        assert_eq!(account.exit, Exit::Refused, "{account:#?}");
        assert_says(&account, error);
        self.end_worker();
        self.assert_as(&before);
        assert_eq!(self.claim_state(100), "none");
    }

    /// Asserts that a VM owns its CPUs, all of them and alone.
    pub fn assert_owns(&self, vmid: u32) {
        let claim = self.claim(vmid).expect("a claim");
        assert!(
            matches!(claim.state, ClaimState::Running { .. }),
            "{}",
            claim.state
        );
        let scope = format!("/qemu.slice/{vmid}.scope");
        let is_parted = has_partition(&claim.wishes);
        let vcpus = if is_parted {
            self.assert_partition(vmid, &claim);
            format!("{scope}/vcpu")
        } else {
            scope
        };
        let vm = self.sim.vm(vmid);
        for (n, tid) in &vm.vcpus {
            let thread = self.sim.task(*tid);
            assert_eq!(thread.cgroup, vcpus, "vcpu {n} of vm {vmid}");
            let cpu = claim.wishes.vcpus[*n as usize];
            assert_eq!(thread.mask, CpuSet::of(cpu), "vcpu {n} of vm {vmid}");
        }
        let inside = |task: &Task| match is_parted {
            true => task
                .cgroup
                .starts_with(&format!("/qemu.slice/{vmid}.scope/")),
            false => vm.vcpus.iter().any(|(_, tid)| *tid == task.tid),
        };
        self.assert_nobody_else_on(&claim.wishes.cpus, inside);
    }

    fn assert_partition(&self, vmid: u32, claim: &Claim) {
        let kind = claim.wishes.backend.to_string();
        let scope = format!("/qemu.slice/{vmid}.scope");
        for (group, cpus) in claim.wishes.groups() {
            let dir = format!("/sys/fs/cgroup{scope}/{group}");
            assert_eq!(
                self.sim.get(&format!("{dir}/cpuset.cpus.partition")),
                format!("{kind}\n")
            );
            assert_eq!(
                self.sim.get(&format!("{dir}/cpuset.cpus.effective")),
                format!("{cpus}\n")
            );
        }
        let main = self.sim.task(self.sim.vm(vmid).pid).cgroup;
        let emulator = claim.wishes.emulator.clone().unwrap_or_default();
        let is_inside = !emulator.is_empty() && emulator.is_subset(&claim.wishes.cpus);
        let expected = if is_inside {
            format!("{scope}/io")
        } else {
            scope
        };
        assert_eq!(main, expected);
    }

    fn assert_nobody_else_on(&self, owned: &CpuSet, is_its: impl Fn(&Task) -> bool) {
        let state = self.sim.state();
        let others = state
            .tasks
            .iter()
            .filter(|task| !task.refuses_affinity() && !is_its(task));
        for task in others {
            assert!(
                task.mask.is_disjoint(owned),
                "{} may run on {}",
                task.comm,
                task.mask
            );
        }
        for (number, irq) in state.irqs.iter().filter(|(_, irq)| irq.kind == Kind::Free) {
            assert!(
                irq.affinity.is_disjoint(owned),
                "irq {number} may be on {}",
                irq.affinity
            );
        }
        assert!(state.irqs.default_affinity.is_disjoint(owned));
    }

    /// Asserts that nothing is remembered and that nothing looks after anything.
    pub fn assert_at_rest(&self) {
        let state = read_state(&*self.host.files).expect("a journal that can be read");
        assert!(state.is_empty(), "left in the journal: {state:#?}");
        let mut active = self.sim.state().systemd.active.clone();
        active.retain(|unit| !unit.ends_with(".service"));
        assert!(active.is_empty(), "still active: {active:?}");
    }

    /// Asserts that the host is as `before`.
    pub fn assert_as(&self, before: &Capture) {
        let changes = changes(before, &self.capture());
        assert!(changes.is_empty(), "the host has changed:\n{changes}");
    }
}

/// Returns the differences of two captures; that reconcile was started is none.
pub fn changes(before: &Capture, after: &Capture) -> String {
    let text = diff(before, after);
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("unit pin-hook-reconcile.service"));
    lines.map(|line| format!("  {line}\n")).collect()
}

/// Takes out of the text of a task what it asked for where that makes no difference: a task that
/// asked for what it has or for every CPU behaves as one that never asked, and kernel threads are
/// in no cgroup that could hide what they asked for.
fn without_request(text: &str) -> String {
    let Some((mask, rest)) = text
        .strip_prefix("mask ")
        .and_then(|t| t.split_once(", requested "))
    else {
        return text.to_owned();
    };
    match rest.split_once(", group ") {
        Some((asked, rest))
            if asked == mask || ["nothing", "0-7"].contains(&asked) || rest.starts_with(',') =>
        {
            format!("mask {mask}, group {rest}")
        }
        _ => text.to_owned(),
    }
}

pub fn id(vmid: u32) -> Vmid {
    vmid.to_string().parse().expect("a vm id")
}

/// Returns the mask of a task as a set.
pub fn mask(world: &World, tid: i32) -> CpuSet {
    cpus(&world.sim.mask(tid))
}

/// Returns an account after asserting that the call did what it is for.
#[track_caller]
pub fn done(account: Account) -> Account {
    assert_eq!(account.exit, Exit::Done, "{account:#?}");
    account
}

/// Asserts that an account has a line with this text.
#[track_caller]
pub fn assert_says(account: &Account, text: &str) {
    let found = account.lines.iter().any(|line| line.text.contains(text));
    assert!(found, "nothing says \"{text}\": {account:#?}");
}
