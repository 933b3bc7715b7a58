//! Writes that the kernel refuses or takes without doing them.

use std::time::Duration;

use pin_hook::domain::claim::ClaimState;
use pin_hook::lifecycle::account::{Account, Exit, Level};
use pin_hook::lifecycle::phase::{PHASE_TIME, Phase};
use pin_hook::lifecycle::status::status;

use super::world::{World, assert_says, changes, done};
use crate::common::sim::capture::Capture;
use crate::common::sim::fate::SHORT_WRITE;
use crate::common::sim::{VmSpec, cpus};

/// Returns a node whose VM is up and waits for its post-start.
fn launched() -> World {
    let world = World::with_vm();
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    world.sim.take_log();
    world
}

/// Returns what post-start does to the host, without what it writes for itself.
fn ops_of_post_start() -> Vec<String> {
    let world = launched();
    done(world.phase(Phase::PostStart, 100));
    let ops = world.writes().into_iter();
    ops.filter(|op| !op.contains(" /run/pin-hook/")).collect()
}

fn is_essential(op: &str) -> bool {
    let threads = launched().sim.vm_tids(100);
    let of_thread = || {
        let tid = op
            .strip_prefix("set_affinity ")
            .and_then(|op| op.split(' ').next());
        tid.is_some_and(|tid| threads.contains(&tid.parse().unwrap()))
    };
    op.contains("/sys/fs/cgroup/") || of_thread()
}

/// Asserts that a VM whose post-start failed runs as if it had no table, until it stops.
fn assert_taken_back(world: &World, before: &Capture, what: &str) {
    let claim = world.claim(100).expect("a claim");
    assert!(
        matches!(claim.state, ClaimState::Failed { .. }),
        "{what}: {}",
        claim.state
    );
    let left = changes(before, &world.capture());
    assert!(left.is_empty(), "{what}: not taken back:\n{left}");
    world.end_worker();
    world.sim.take_log();
    let account = world.reconcile();
    assert_eq!(account.exit, Exit::Refused, "{what}: {account:#?}");
    let writes = world.writes();
    assert!(writes.is_empty(), "{what}: reconcile writes {writes:#?}");
    world.stop(100);
    world.assert_at_rest();
}

#[test]
fn an_essential_error_at_any_write_of_post_start_is_taken_back_completely() {
    let rest = World::with_vm().capture();
    let essential: Vec<String> = ops_of_post_start()
        .into_iter()
        .filter(|op| is_essential(op))
        .collect();
    assert!(essential.len() > 10, "{essential:#?}");
    for op in &essential {
        for error in [
            libc::EINVAL,
            libc::EBUSY,
            libc::EIO,
            libc::ENOSPC,
            libc::EPERM,
            SHORT_WRITE,
        ] {
            let world = launched();
            let before = world.capture();
            world.sim.fail(op, error, 1);
            let account = world.phase(Phase::PostStart, 100);
            let what = format!("error {error} at \"{op}\"");
            assert_eq!(account.exit, Exit::Refused, "{what}: {account:#?}");
            assert_says(&account, "vm 100: cannot isolate cpus 2-3: ");
            assert_taken_back(&world, &before, &what);
            world.assert_as(&rest);
        }
    }
}

/// A VM that wishes for all tuning there is, up and waiting for its post-start.
fn tuned() -> World {
    let table = "cpus = \"2-3\"\npin.scheduler = \"fifo:1\"\n[power]\ngovernor = \"performance\"\n\
                 min-frequency = \"2200MHz\"\nmax-idle-latency = \"2us\"\n[host]\nksm = \"stop\"\n\
                 transparent-hugepages = \"never\"\nhalt-poll = \"0us\"\n\
                 sysctl = { \"vm.stat_interval\" = 120 }\n";
    let world = World::lab().vm(100, super::world::CONF, table);
    for (path, text) in [
        (
            "/sys/devices/system/cpu/cpufreq/policy2/scaling_min_freq",
            "1200000\n",
        ),
        ("/sys/kernel/mm/ksm/run", "1\n"),
        ("/sys/module/kvm/parameters/halt_poll_ns", "200000\n"),
    ] {
        world.sim.put(path, text);
    }
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    world.sim.take_log();
    world
}

fn is_tuning(op: &str) -> bool {
    let places = [
        "/proc/irq/",
        "/proc/sys/",
        "/virtual/workqueue/",
        "/sys/devices/system/cpu/",
        "/sys/kernel/mm/",
        "/sys/module/",
    ];
    places.iter().any(|place| op.contains(place))
        || op.starts_with("set_class ")
        || op.starts_with("set_affinity ") && !is_essential(op)
}

fn warnings(account: &Account) -> Vec<String> {
    let lines = account.lines.iter();
    let warnings = lines.filter(|line| line.level == Level::Warning);
    warnings.map(|line| line.text.clone()).collect()
}

/// Ends the VM and asserts that the host is as before its start.
fn assert_all_given_back(world: &World, rest: &Capture, what: &str) {
    world.end_worker();
    world.stop(100);
    // What is written at the end may be what was planted.
    world.reconcile_until_quiet().unwrap();
    let left = changes(rest, &world.capture());
    assert!(left.is_empty(), "{what}: lost:\n{left}");
    world.assert_at_rest();
}

const ERRORS: [i32; 8] = [
    libc::EIO,
    libc::EINVAL,
    libc::EBUSY,
    libc::ENOSPC,
    libc::ENOENT,
    libc::EPERM,
    libc::ESRCH,
    SHORT_WRITE,
];

/// The kernel refuses a single target time and again: more often than it is tried.
#[test]
fn any_error_at_any_tuning_is_told_once_tried_thrice_and_nothing_is_lost() {
    let rest = tuned_rest();
    let (launched, reference) = (tuned(), tuned());
    let usual = warnings(&done(reference.phase(Phase::PostStart, 100)));
    let ops = reference.writes().into_iter();
    // The kernel refuses the interrupts of the disk's queues in any case.
    let is_queue = |op: &String| ["/irq/55/", "/irq/56/"].iter().any(|irq| op.contains(irq));
    let ops: Vec<String> = ops.filter(|op| is_tuning(op) && !is_queue(op)).collect();
    assert!(ops.len() > 20, "{ops:#?}");
    for knob in [
        "scaling_governor",
        "scaling_min_freq",
        "pm_qos_resume_latency_us",
        "ksm/run",
        "transparent_hugepage",
        "halt_poll_ns",
        "stat_interval",
    ] {
        assert!(ops.iter().any(|op| op.contains(knob)), "{knob}: {ops:#?}");
    }
    let whole = reference.capture();
    for op in &ops {
        for error in ERRORS {
            let (world, what) = (launched.fork(), format!("error {error} at \"{op}\""));
            world.sim.fail(&format!("={op}"), error, 3);
            let account = done(world.phase(Phase::PostStart, 100));
            let mut told = warnings(&account);
            told.retain(|text| !usual.contains(text));
            assert!(told.len() <= 1, "{what}: {told:#?}");
            assert!(
                !told.is_empty() || is_no_failure(op, error),
                "{what} is not told"
            );
            assert_eq!(world.claim_state(100), "running", "{what}");
            world.end_worker();
            for _ in 0..3 {
                let told = warnings(&done(world.reconcile()));
                assert!(told.is_empty(), "{what}: {told:#?}");
            }
            let missing = changes(&whole, &world.capture());
            let is_other = |line: &&str| !line.contains(&place_of(op));
            let others: Vec<&str> = missing.lines().filter(is_other).collect();
            assert!(others.is_empty(), "{what}: not done:\n{missing}");
            world.writes();
            done(world.reconcile());
            assert_eq!(world.writes(), Vec::<String>::new(), "{what}");
            assert_all_given_back(&world, &rest, &what);
        }
    }
}

/// Tells whether an error says that the target has gone, that nobody can change it, or that an interrupt
/// has to go elsewhere.
fn is_no_failure(op: &str, error: i32) -> bool {
    let is_fixed = || match op.split(' ').next() {
        Some("set_affinity") => error == libc::EINVAL,
        _ => op.contains("/proc/irq/") && [libc::EIO, libc::EPERM, libc::ENOSPC].contains(&error),
    };
    [libc::ENOENT, libc::ESRCH].contains(&error) || is_fixed()
}

/// Returns what a capture calls the place that an operation is about.
fn place_of(op: &str) -> String {
    let mut words = op.split(' ');
    let (verb, place) = (words.next().unwrap(), words.next().unwrap());
    match verb {
        "write" if place.contains("/proc/irq/") => place.replace("_list", ""),
        "write" => place.to_owned(),
        _ => format!("task {place} "),
    }
}

fn tuned_rest() -> Capture {
    let world = tuned();
    world.end_worker();
    world.stop(100);
    world.capture()
}

#[test]
fn giving_back_that_the_kernel_refuses_is_told_once_and_tried_until_it_is_done() {
    let rest = tuned_rest();
    let running = || {
        let world = tuned();
        done(world.phase(Phase::PostStart, 100));
        world.end_worker();
        world.end_qemu(100);
        world.sim.take_log();
        world
    };
    let reference = running();
    let usual = warnings(&done(reference.phase(Phase::PostStop, 100)));
    let ops = reference.writes().into_iter();
    let ops: Vec<String> = ops.filter(|op| is_tuning(op)).collect();
    assert!(ops.len() > 15, "{ops:#?}");
    for op in &ops {
        let (world, what) = (running(), format!("\"{op}\""));
        world.sim.fail(&format!("={op}"), libc::EIO, 5);
        let account = done(world.phase(Phase::PostStop, 100));
        let mut told = warnings(&account);
        told.retain(|text| !usual.contains(text));
        assert_eq!(told.len(), 1, "{what}: {told:#?}");
        world.end_worker();
        for _ in 0..6 {
            let told = warnings(&done(world.reconcile()));
            assert!(told.is_empty(), "{what}: {told:#?}");
        }
        let left = changes(&rest, &world.capture());
        assert!(left.is_empty(), "{what}: lost:\n{left}");
        world.assert_at_rest();
    }
}

#[test]
fn what_the_kernel_refuses_is_shown_by_status() {
    let world = tuned();
    let watchdog = "/proc/sys/kernel/watchdog_cpumask";
    world
        .sim
        .fail(&format!("write {watchdog}"), libc::EINVAL, 9);
    let account = done(world.phase(Phase::PostStart, 100));
    assert_says(&account, "watchdog_cpumask: writing \"0-1,4-7\" failed");
    world.end_worker();
    for _ in 0..5 {
        done(world.reconcile());
    }
    let status = status(&world.host, None).unwrap();
    let refused = status.refused.as_slice();
    assert_eq!(refused.len(), 1, "{refused:#?}");
    assert_eq!(refused[0].target, watchdog);
    assert_eq!(
        (refused[0].wanted.as_str(), refused[0].attempts),
        ("0-1,4-7", 3)
    );
    assert!(status.ok && status.drift.is_empty() && status.pending == 0);
}

#[test]
fn an_interrupt_without_a_free_vector_is_a_warning() {
    let world = launched();
    world.sim.fail("write /proc/irq/30/", libc::ENOSPC, 1);
    let account = done(world.phase(Phase::PostStart, 100));
    assert_says(
        &account,
        "/proc/irq/30/smp_affinity_list: writing \"0-1,4-7\" failed",
    );
    assert_eq!(world.claim_state(100), "running");
}

#[test]
fn a_partition_that_the_kernel_takes_and_finds_invalid_is_taken_back() {
    let world = launched();
    world.foreign_partition();
    let before = world.capture();
    let account = world.phase(Phase::PostStart, 100);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_says(&account, "cannot isolate cpus 2-3");
    assert_taken_back(&world, &before, "foreign partition");
}

/// A VM whose post-start had no time: what is left is done by reconcile.
fn late() -> World {
    let world = launched();
    world.allow(Duration::ZERO);
    done(world.phase(Phase::PostStart, 100));
    world.allow(PHASE_TIME);
    world.end_worker();
    world
}

#[test]
fn a_first_settling_by_reconcile_is_all_or_nothing_too() {
    let world = late();
    let before = world.capture();
    world
        .sim
        .fail("write*cpuset.cpus.partition isolated", libc::EINVAL, 1);
    let account = world.reconcile();
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_taken_back(&world, &before, "reconcile");
}

#[test]
fn what_was_settled_once_is_not_taken_back_by_reconcile() {
    let world = late();
    done(world.reconcile());
    world.assert_owns(100);
    let (_, tid) = world.sim.vm(100).vcpus.into_iter().next().unwrap();
    world.sim.state().set_affinity(tid, &cpus("2-3")).unwrap();
    world
        .sim
        .fail(&format!("set_affinity {tid} "), libc::EINVAL, 1);
    let account = world.reconcile();
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    assert_eq!(world.claim_state(100), "running");
}

#[test]
fn a_failure_of_one_vm_leaves_the_one_that_was_late() {
    let world = World::with_two_vms();
    for vmid in [100, 101] {
        done(world.phase(Phase::PreStart, vmid));
        world.launch(vmid, &VmSpec::with_vcpus(2));
    }
    world.allow(Duration::ZERO);
    done(world.phase(Phase::PostStart, 101));
    world.allow(PHASE_TIME);
    world
        .sim
        .fail("write*100.scope/vcpu/cgroup.threads", libc::EINVAL, 1);
    assert_eq!(world.phase(Phase::PostStart, 100).exit, Exit::Refused);
    world.end_worker();
    world.reconcile();
    assert_eq!(world.claim_state(100), "failed");
    world.assert_owns(101);
}

/// A VM that runs, and whose post-start failed.
fn failed() -> World {
    let world = launched();
    world
        .sim
        .fail("write*cpuset.cpus.partition isolated", libc::EINVAL, 1);
    assert_eq!(world.phase(Phase::PostStart, 100).exit, Exit::Refused);
    world.end_worker();
    world
}

#[test]
fn a_failed_claim_is_tried_again_by_apply() {
    let world = failed();
    done(world.apply(100));
    world.assert_owns(100);
}

#[test]
fn the_cpus_of_a_failed_claim_are_free_for_others() {
    let world = failed();
    let world = world.vm(101, super::world::CONF, "cpus = \"3-4\"\n");
    done(world.phase(Phase::PreStart, 101));
    world.launch(101, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 101));
    world.assert_owns(101);
}

#[test]
fn a_failure_of_one_vm_leaves_the_other() {
    let world = World::with_two_vms();
    for vmid in [100, 101] {
        done(world.phase(Phase::PreStart, vmid));
        world.launch(vmid, &VmSpec::with_vcpus(2));
    }
    done(world.phase(Phase::PostStart, 100));
    let before = world.capture();
    world
        .sim
        .fail("write*101.scope/vcpu/cgroup.threads", libc::EINVAL, 1);
    assert_eq!(world.phase(Phase::PostStart, 101).exit, Exit::Refused);
    world.assert_as(&before);
    world.assert_owns(100);
}

#[test]
fn taking_back_that_fails_is_told_and_kept_for_reconcile() {
    let world = launched();
    world
        .sim
        .fail("write*cpuset.cpus.partition isolated", libc::EINVAL, 1);
    world.sim.fail("remove_dir*100.scope/vcpu", libc::EBUSY, 1);
    let before = world.capture();
    let account = world.phase(Phase::PostStart, 100);
    assert_eq!(account.exit, Exit::Incomplete, "{account:#?}");
    world.reconcile_until_quiet().unwrap();
    world.assert_as(&before);
}

#[test]
fn a_journal_that_cannot_be_written_stops_the_phase_and_nothing_is_lost() {
    for record in [
        "\"claim\"",
        "\"group\"",
        "\"affinity\"",
        "\"kernel-thread\"",
    ] {
        let world = launched();
        world.sim.fail(
            &format!("append /run/pin-hook/journal*{record}"),
            libc::ENOSPC,
            1,
        );
        let account = world.phase(Phase::PostStart, 100);
        assert_eq!(account.exit, Exit::Refused, "{account:#?}");
        assert_says(&account, "cannot append to /run/pin-hook/journal");
        assert_says(&account, "make room: df /run/pin-hook shows what is full");
        world.end_worker();
        world.reconcile_until_quiet().unwrap();
        world.assert_owns(100);
    }
}
