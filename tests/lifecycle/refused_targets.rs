//! Targets that the kernel refuses or takes without doing them, where the VM does without: each is told once,
//! the rest is done, and nothing is lost.

use pin_hook::lifecycle::engine::account::{Account, Level};
use pin_hook::lifecycle::show::status::status;
use pin_hook::lifecycle::start::phase::Phase;

use super::failures::is_essential;
use super::scenario::is_tried;
use super::world::{CONF, World, assert_says, changes, done};
use crate::common::sim::VmSpec;
use crate::common::sim::capture::Capture;
use crate::common::sim::fate::SHORT_WRITE;

/// A VM that wishes for all tuning there is, up and waiting for its post-start.
pub fn tuned() -> World {
    tuned_by("isolated")
}

/// The same by a backend.
fn tuned_by(backend: &str) -> World {
    let table = "cpus = \"2-3\"\npin.scheduler = \"fifo:1\"\n[power]\ngovernor = \"performance\"\n\
                 energy-preference = \"performance\"\nmin-frequency = \"2200MHz\"\n\
                 max-frequency = \"2200MHz\"\nboost = false\nmax-idle-latency = \"2us\"\n[host]\nksm = \"stop\"\n\
                 transparent-hugepages = \"never\"\nhalt-poll = \"0us\"\n\
                 sysctl = { \"vm.stat_interval\" = 120 }\n";
    let table = format!("{table}[isolate]\nbackend = \"{backend}\"\n");
    let world = World::lab().vm(100, CONF, &table);
    for (path, text) in [
        (
            "/sys/devices/system/cpu/cpufreq/policy2/scaling_min_freq",
            "1200000\n",
        ),
        (
            "/sys/devices/system/cpu/cpufreq/policy2/energy_performance_preference",
            "balance_power\n",
        ),
        (
            "/sys/devices/system/cpu/cpufreq/policy2/scaling_max_freq",
            "3000000\n",
        ),
        ("/sys/devices/system/cpu/cpufreq/boost", "1\n"),
        ("/sys/kernel/mm/ksm/run", "1\n"),
        ("/sys/module/kvm/parameters/halt_poll_ns", "200000\n"),
    ] {
        world.sim.put(path, text);
    }
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    world.sim.start_container(201, "cores: 2\n", "2-3");
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
        "/sys/fs/cgroup/lxc/",
    ];
    places.iter().any(|place| op.contains(place))
        || op.starts_with("set_class ")
        || op.starts_with("set_affinity ") && !is_essential(op)
}

pub fn warnings(account: &Account) -> Vec<String> {
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

pub const ERRORS: [i32; 8] = [
    libc::EIO,
    libc::EINVAL,
    libc::EBUSY,
    libc::ENOSPC,
    libc::ENOENT,
    libc::EPERM,
    libc::ESRCH,
    SHORT_WRITE,
];

/// Those that do not say that the target has gone.
pub const REFUSALS: [i32; 6] = [
    libc::EIO,
    libc::EINVAL,
    libc::EBUSY,
    libc::ENOSPC,
    libc::EPERM,
    SHORT_WRITE,
];

/// The kernel refuses a single target time and again: more often than it is tried.
#[test]
fn any_error_at_any_tuning_is_told_once_tried_thrice_and_nothing_is_lost() {
    let ops = tuning_of(&tuned());
    assert!(ops.len() > 20, "{ops:#?}");
    for knob in [
        "scaling_governor",
        "scaling_min_freq",
        "scaling_max_freq",
        "energy_performance_preference",
        "cpufreq/boost",
        "lxc/201",
        "pm_qos_resume_latency_us",
        "ksm/run",
        "transparent_hugepage",
        "halt_poll_ns",
        "stat_interval",
    ] {
        assert!(ops.iter().any(|op| op.contains(knob)), "{knob}: {ops:#?}");
    }
    any_error_is_told_once(tuned, &ops);
}

/// What only `root` writes: the mask of unbound work, which the other kind of partition narrows by itself.
#[test]
fn any_error_at_the_work_of_a_root_partition_is_told_once_and_nothing_is_lost() {
    let by_root = || tuned_by("root");
    let mut ops = tuning_of(&by_root());
    ops.retain(|op| op.contains("/virtual/workqueue/cpumask "));
    assert_eq!(ops.len(), 1, "{ops:#?}");
    any_error_is_told_once(by_root, &ops);
}

/// Returns what a post-start writes and a VM does without.
fn tuning_of(launched: &World) -> Vec<String> {
    let world = launched.fork();
    done(world.phase(Phase::PostStart, 100));
    // The kernel refuses the interrupts of the disk's queues in any case.
    let is_queue = |op: &String| ["/irq/55/", "/irq/56/"].iter().any(|irq| op.contains(irq));
    let ops = world.writes().into_iter();
    ops.filter(|op| is_tuning(op) && !is_queue(op)).collect()
}

/// Has each of these operations of a post-start fail in every way.
fn any_error_is_told_once(node: impl Fn() -> World, ops: &[String]) {
    let (launched, reference) = (node(), node());
    let rest = rest_of(node());
    let usual = warnings(&done(reference.phase(Phase::PostStart, 100)));
    let whole = reference.capture();
    for (n, op) in (1..).zip(ops) {
        let errors = (n..).zip(ERRORS).filter(|(n, _)| is_tried(*n));
        for (_, error) in errors {
            let (world, what) = (launched.fork(), format!("error {error} at \"{op}\""));
            world.sim.fail(&format!("={op}"), error, 3);
            let account = done(world.phase(Phase::PostStart, 100));
            let mut told = warnings(&account);
            told.retain(|text| !usual.contains(text));
            let n_told = told.iter().filter(|text| !follows(op, text)).count();
            assert!(n_told <= 1, "{what}: {told:#?}");
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
            let is_other = |line: &&str| !line.contains(&place_of(op)) && !follows(op, line);
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

/// Tells whether a line is about what follows from an operation: a preference is taken only after the governor,
/// and what is in a container has its CPUs.
fn follows(op: &str, line: &str) -> bool {
    let pairs = [
        (
            "policy2/scaling_governor",
            "policy2/energy_performance_preference",
        ),
        ("/lxc/201/cpuset.cpus", "/lxc/201"),
    ];
    pairs
        .iter()
        .any(|(cause, effect)| op.contains(cause) && line.contains(effect))
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
    rest_of(tuned())
}

/// Returns the node after a VM that waited for its post-start.
fn rest_of(world: World) -> Capture {
    world.end_worker();
    world.stop(100);
    world.capture()
}

#[test]
fn giving_back_that_the_kernel_refuses_is_told_once_and_tried_until_it_is_done() {
    let rest = tuned_rest();
    let ended = running();
    ended.end_qemu(100);
    let reference = ended.fork();
    let usual = warnings(&done(reference.phase(Phase::PostStop, 100)));
    let ops = reference.writes().into_iter();
    let ops: Vec<String> = ops.filter(|op| is_tuning(op)).collect();
    assert!(ops.len() > 15, "{ops:#?}");
    let all = ops.iter().flat_map(|op| REFUSALS.map(|error| (op, error)));
    // A kernel thread that refuses every mask is given up in the end: the kernel keeps it.
    let is_kept = |op: &str, error| op.starts_with("set_affinity ") && error == libc::EINVAL;
    for (op, error) in all.filter(|(op, error)| !is_kept(op, *error)) {
        let (world, what) = (ended.fork(), format!("error {error} at \"{op}\""));
        world.sim.fail(&format!("={op}"), error, 5);
        let account = done(world.phase(Phase::PostStop, 100));
        let mut told = warnings(&account);
        told.retain(|text| !usual.contains(text));
        let (followed, others): (Vec<_>, Vec<_>) = told.iter().partition(|text| follows(op, text));
        assert_eq!(others.len().max(followed.len()), 1, "{what}: {told:#?}");
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

/// Returns the question that an operation's target is read by.
fn question_of(op: &str) -> String {
    let mut words = op.split(' ');
    match (words.next().unwrap(), words.next().unwrap()) {
        ("write", path) => format!("=read {path}"),
        (_, tid) => format!("=affinity {tid}"),
    }
}

/// A VM that runs with all its tuning.
pub fn running() -> World {
    let world = tuned();
    done(world.phase(Phase::PostStart, 100));
    world.end_worker();
    world.sim.take_log();
    world
}

#[test]
fn what_nobody_can_read_is_told_once_and_given_back_when_it_can_be_read() {
    let rest = tuned_rest();
    let reference = running();
    reference.end_qemu(100);
    let usual = warnings(&done(reference.phase(Phase::PostStop, 100)));
    let ops = reference.writes().into_iter();
    let ops: Vec<String> = ops.filter(|op| is_tuning(op)).collect();
    assert!(ops.len() > 15, "{ops:#?}");
    for op in &ops {
        let (world, what) = (running(), format!("unreadable: \"{op}\""));
        world.sim.fail(&question_of(op), libc::EIO, u32::MAX);
        let told = warnings(&done(world.reconcile()));
        assert_eq!(told.len(), 1, "{what}: {told:#?}");
        assert!(
            told[0].contains("reading it failed: Input/output error"),
            "{told:#?}"
        );
        world.end_qemu(100);
        let mut told = warnings(&done(world.phase(Phase::PostStop, 100)));
        told.retain(|text| !usual.contains(text) && !follows(op, text));
        assert!(told.is_empty(), "{what}: {told:#?}");
        let missing = changes(&rest, &world.capture());
        let others = missing
            .lines()
            .filter(|line| !line.contains("unit pin-hook-reconcile"));
        let others: Vec<&str> = others
            .filter(|line| !line.contains(&place_of(op)) && !follows(op, line))
            .collect();
        assert!(others.is_empty(), "{what}: not given back:\n{missing}");
        world.end_worker();
        assert_all_back(&world, &rest, &what);
    }
}

/// Asserts that all is given back as soon as nothing fails any more.
fn assert_all_back(world: &World, rest: &Capture, what: &str) {
    world.sim.fail_no_more();
    world.reconcile_until_quiet().unwrap();
    let left = changes(rest, &world.capture());
    assert!(left.is_empty(), "{what}: lost:\n{left}");
    world.assert_at_rest();
}

/// A read that fails a few times: what a list left out may be there when it is looked at by itself.
#[test]
fn what_cannot_be_read_for_a_moment_is_not_lost() {
    let rest = tuned_rest();
    let reference = running();
    reference.end_qemu(100);
    done(reference.phase(Phase::PostStop, 100));
    let ops = reference.writes().into_iter();
    for op in ops.filter(|op| is_tuning(op)) {
        for times in [1, 2] {
            let (world, what) = (running(), format!("{times} reads fail: \"{op}\""));
            world.sim.fail(&question_of(&op), libc::EIO, times);
            done(world.reconcile());
            world.end_qemu(100);
            done(world.phase(Phase::PostStop, 100));
            world.end_worker();
            assert_all_back(&world, &rest, &what);
        }
    }
}

/// What was narrowed for one VM and is refused to the next one is given back when both are gone.
#[test]
fn what_is_refused_to_a_second_vm_is_not_lost() {
    let two = || running().vm(101, CONF, "cpus = \"4-5\"\n");
    let launched = two();
    done(launched.phase(Phase::PreStart, 101));
    launched.launch(101, &VmSpec::with_vcpus(2));
    launched.sim.take_log();
    let reference = launched.fork();
    done(reference.phase(Phase::PostStart, 101));
    let ops = reference.writes().into_iter();
    let ops: Vec<String> = ops.filter(|op| is_tuning(op)).collect();
    assert!(ops.len() > 15, "{ops:#?}");
    let end = |world: &World| {
        world.end_worker();
        world.stop(101);
        world.stop(100);
        world.reconcile_until_quiet().unwrap();
    };
    end(&reference);
    let rest = reference.capture();
    for op in &ops {
        for error in [libc::EIO, libc::EINVAL, libc::EBUSY, libc::EPERM] {
            let (world, what) = (launched.fork(), format!("error {error} at \"{op}\""));
            world.sim.fail(&format!("={op}"), error, 3);
            world.phase(Phase::PostStart, 101);
            end(&world);
            let left = changes(&rest, &world.capture());
            assert!(left.is_empty(), "{what}: lost:\n{left}");
        }
    }
}

#[test]
fn a_default_for_interrupts_that_nobody_can_read_is_told_and_left() {
    let (world, rest) = (tuned(), tuned_rest());
    let default = "/proc/irq/default_smp_affinity";
    world
        .sim
        .fail(&format!("=read {default}"), libc::EIO, u32::MAX);
    let account = done(world.phase(Phase::PostStart, 100));
    assert_says(
        &account,
        &format!("{default}: reading it failed: Input/output error"),
    );
    world.end_worker();
    let told = warnings(&done(world.reconcile()));
    assert!(told.is_empty(), "{told:#?}");
    world.stop(100);
    assert_all_back(&world, &rest, default);
}
