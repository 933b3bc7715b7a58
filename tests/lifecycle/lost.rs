//! The state is lost or damaged while VMs own CPUs: the case lost-state.

use pin_hook::domain::claim::Claim;
use pin_hook::domain::state::{Held, Record, State, based};
use pin_hook::domain::target::{Target, Value};
use pin_hook::host::pve::TextFile;
use pin_hook::lifecycle::engine::journal::lines;
use pin_hook::lifecycle::show::lint::lint;
use pin_hook::lifecycle::show::list::list;
use pin_hook::lifecycle::show::plan::Outcome;
use pin_hook::lifecycle::show::status::status;
use pin_hook::lifecycle::start::phase::Phase;

use super::world::{World, assert_says, changes, done, mask, parse};
use crate::common::sim::{TaskSpec, VmSpec, cpus};

const JOURNAL: &str = "/run/pin-hook/journal";

/// Returns the log of a world without the room behind it.
fn log_of(world: &World) -> String {
    world.sim.get(JOURNAL).trim_end_matches('\0').to_owned()
}

/// A log that is short enough to be damaged in every way.
fn short_log() -> String {
    let record = |n: u32| {
        let target = Target::Group(format!("qemu.slice/{n}.scope/vcpu"));
        let held = Held::new(Value::Absent, Value::Cpus(cpus("2-5")));
        Record::Intend(vec![(target, held)])
    };
    lines(&based((100..106).map(record).collect())).unwrap()
}

/// Returns what a log amounts to without some of its lines.
fn without(log: &str, is_left_out: impl Fn(usize) -> bool) -> State {
    let kept = log.lines().enumerate().filter(|(n, _)| !is_left_out(*n));
    let kept: String = kept.map(|(_, line)| format!("{line}\n")).collect();
    parse(&kept).unwrap().0
}

#[test]
fn every_bit_that_flips_costs_its_line_and_is_noticed() {
    let log = short_log();
    for at in 0..log.len() {
        let line = log[..at].matches('\n').count();
        let ends_line = log.as_bytes()[at] == b'\n';
        let expected = without(&log, |n| n == line || ends_line && n == line + 1);
        for bit in 0..8 {
            let mut bytes = log.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let flipped = String::from_utf8_lossy(&bytes).into_owned();
            let (state, damage) = parse(&flipped).unwrap_or_else(|newer| {
                panic!("bit {bit} of byte {at} is taken for a newer version: {newer}")
            });
            // The last line without its end is what a death leaves; one is missing then.
            assert_eq!(state, expected, "bit {bit} of byte {at}");
            // Of the first line only the version counts, and that is in the next one as well.
            assert!(line == 0 || !damage.is_none(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn every_cut_is_noticed_and_costs_what_is_behind_it() {
    let log = short_log();
    let n_lines = log.lines().count();
    for at in 0..log.len() {
        let (state, damage) = parse(&log[..at]).unwrap();
        let n_whole = log[..at].matches('\n').count();
        assert_eq!(state, without(&log, |n| n >= n_whole), "cut at {at}");
        // The second one says how many there are.
        let missing = if n_whole > 1 { n_lines - n_whole } else { 1 };
        assert_eq!(damage.missing, missing, "cut at {at}");
    }
}

/// Every damage to a log, as far as it makes a difference what is left of it: a line that cannot be
/// read, all from a line on missing, and the same in the middle of that line.
fn damages(log: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = log.split_inclusive('\n').collect();
    let mut damages = vec![("everything".to_owned(), String::new())];
    for n in 0..lines.len() {
        let (before, after) = (lines[..n].concat(), lines[n + 1..].concat());
        let half = &lines[n][..lines[n].len() / 2];
        damages.push((format!("line {n}"), format!("{before}{half}\n{after}")));
        damages.push((format!("all from line {n}"), before.clone()));
        damages.push((format!("from the middle of line {n}"), before + half));
    }
    damages
}

#[test]
fn whatever_is_damaged_the_host_is_given_back_when_the_vm_stops() {
    let world = World::with_vm();
    let before = world.capture();
    world.start(100);
    let mut wrong = String::new();
    for (what, log) in damages(&log_of(&world)) {
        let world = world.fork();
        world.sim.put(JOURNAL, &log);
        world.stop(100);
        wrong += &left(&world, &before, &what);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn whatever_is_damaged_everything_is_released_while_the_vm_runs() {
    let world = World::with_vm();
    let before = world.capture();
    world.start(100);
    let mut wrong = String::new();
    for (what, log) in damages(&log_of(&world)) {
        let world = world.fork();
        world.sim.put(JOURNAL, &log);
        done(world.release(None));
        world.end_worker();
        for (n, tid) in &world.sim.vm(100).vcpus {
            assert_eq!(mask(&world, *tid), cpus("0-7"), "{what}: vcpu {n}");
        }
        world.end_qemu(100);
        wrong += &left(&world, &before, &what);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn whatever_is_damaged_reconcile_goes_on() {
    let world = World::with_vm();
    let before = world.capture();
    world.start(100);
    let mut wrong = String::new();
    for (what, log) in damages(&log_of(&world)) {
        let world = world.fork();
        world.sim.put(JOURNAL, &log);
        done(world.reconcile());
        if let Ok(log) = world.host.files.read(JOURNAL) {
            assert!(parse(&log).unwrap().1.is_none(), "{what}: still damaged");
        }
        world.stop(100);
        wrong += &left(&world, &before, &what);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

pub fn left(world: &World, before: &crate::common::sim::capture::Capture, what: &str) -> String {
    let unquiet = world.reconcile_until_quiet().err().unwrap_or_default();
    world.end_worker();
    world.systemd_looks_at_a_unit();
    let mut before = before.clone();
    before.retain(|name, _| !name.starts_with("unit "));
    let mut now = world.capture();
    now.retain(|name, _| !name.starts_with("unit "));
    match unquiet + &changes(&before, &now) {
        text if text.is_empty() => text,
        text => format!("{what} damaged:\n{text}"),
    }
}

#[test]
fn a_damaged_line_is_set_aside_under_a_name_that_is_told() {
    let world = World::with_vm();
    world.start(100);
    let log = log_of(&world);
    let damaged = log.replacen('\n', "\n{\"clai\n", 1);
    world.sim.put(JOURNAL, &damaged);
    let shown = status(&world.host, None).unwrap();
    assert!(!shown.ok);
    assert!(shown.damage.unwrap().ends_with("is damaged: line 2"));
    let account = done(world.reconcile());
    assert_says(&account, "line 2; kept as /run/pin-hook/damaged-1");
    assert_eq!(world.sim.get("/run/pin-hook/damaged-1"), "{\"clai\n");
    world.assert_owns(100);
    assert!(status(&world.host, None).unwrap().ok);
}

#[test]
fn a_partition_that_nobody_remembers_is_seen_and_given_back() {
    let world = World::with_vm();
    let before = world.capture();
    world.start(100);
    world.lose_state();
    let shown = status(&world.host, None).unwrap();
    assert!(!shown.ok);
    let groups: Vec<&str> = shown
        .forgotten
        .iter()
        .filter_map(|f| f.cgroup.as_deref())
        .collect();
    assert_eq!(groups, ["qemu.slice/100.scope/vcpu", "qemu.slice"]);
    world.end_qemu(100);
    let _ = world.phase(Phase::PostStop, 100);
    world.end_worker();
    // Now the lists of CPUs are gone with the controller; what new threads inherit is left.
    world.systemd_looks_at_a_unit();
    done(world.release(None));
    assert_eq!(left(&world, &before, "all"), "");
}

/// What it asks for would end in the partition of a VM that runs.
#[test]
fn a_plan_without_the_state_is_that_of_the_run_that_takes_it_in_hand_again() {
    let world = World::with_vm();
    let before = world.capture();
    world.start(100);
    world.lose_state();
    let plan = world.plan(100);
    assert_eq!(plan.outcome, Outcome::Ready, "{plan:#?}");
    let told = |text: &String| text.starts_with("the state is lost");
    assert!(plan.warnings.iter().any(told), "{:?}", plan.warnings);
    assert_eq!(list(&world.host).unwrap().misfits, []);
    done(world.apply(100));
    world.assert_owns(100);
    world.stop(100);
    assert_eq!(left(&world, &before, "all"), "");
}

#[test]
fn what_a_release_finds_without_the_state_is_let_go_and_told() {
    let world = World::with_vm();
    world.start(100);
    world.lose_state();
    let account = done(world.release(None));
    assert_says(&account, "everything released");
    let denies = account
        .lines
        .iter()
        .any(|line| line.text.contains("nothing to release"));
    assert!(!denies, "{account:#?}");
}

/// The cgroups have gone with the VM when its stop looks.
#[test]
fn a_stop_without_the_state_gives_back_what_the_vm_had() {
    let world = World::with_vm();
    let before = world.capture();
    world.start(100);
    world.lose_state();
    world.end_qemu(100);
    world.systemd_looks_at_a_unit();
    let shown = status(&world.host, None).unwrap();
    let kept: Vec<_> = shown
        .forgotten
        .iter()
        .map(|f| (&f.cgroup, &f.cpus))
        .collect();
    assert_eq!(kept, [(&None, &cpus("2-3"))]);
    assert!(!shown.ok, "{shown:#?}");
    let account = done(world.phase(Phase::PostStop, 100));
    assert_says(&account, "vm 100: host restored");
    assert_says(&account, "inferred from the host");
    assert_eq!(left(&world, &before, "all"), "");
}

/// The CPUs beside those of a whole node are a node as well: what is there for its device, or by its name, has
/// never been elsewhere.
#[test]
fn what_belongs_to_a_node_stays_there_when_the_state_is_lost() {
    let conf = "cores: 4\nmemory: 64\nhookscript: local:snippets/pin-hook\n";
    let world = World::lab().vm(100, conf, "cpus = \"4-7\"\n");
    let spec = |comm: &str, mask: &str| TaskSpec::named(comm).kthread(false).on_cpus(cpus(mask));
    let threads = [
        ("kswapd0", "0-3"),
        ("kswapd1", "4-7"),
        ("everywhere", "0-7"),
    ];
    let threads = threads.map(|(comm, mask)| (world.sim.spawn(spec(comm, mask)), mask));
    let before = world.capture();
    world.start(100);
    world.assert_owns(100);
    world.lose_state();
    world.stop(100);
    for (tid, was) in threads {
        assert_eq!(mask(&world, tid), cpus(was), "thread {tid} was on {was}");
    }
    assert_eq!(left(&world, &before, "all"), "");
}

/// Whoever looks first, with whichever CPUs: threads of a node are on that node again.
#[test]
fn threads_of_a_node_are_back_there_whoever_finds_that_the_state_is_lost() {
    let mut wrong = String::new();
    for (n_vcpus, owned) in [(2, "2-3"), (4, "2-5"), (4, "4-7"), (6, "2-7")] {
        for finder in ["stop", "reconcile", "apply", "release", "reconcile, apply"] {
            let conf =
                format!("cores: {n_vcpus}\nmemory: 64\nhookscript: local:snippets/pin-hook\n");
            let table = format!("cpus = \"{owned}\"\n");
            let world = World::lab().vm(100, &conf, &table);
            let before = world.capture();
            done(world.phase(Phase::PreStart, 100));
            world.launch(100, &VmSpec::with_vcpus(n_vcpus));
            done(world.phase(Phase::PostStart, 100));
            world.end_worker();
            world.assert_owns(100);
            let kswapd = world.sim.find_task("kswapd0").tid;
            assert!(mask(&world, kswapd).is_disjoint(&cpus(owned)), "{owned}");
            world.lose_state();
            for step in finder.split(", ") {
                match step {
                    "reconcile" => drop(world.reconcile()),
                    "apply" => drop(world.apply(100)),
                    "release" => drop(world.release(None)),
                    _ => {}
                }
            }
            world.stop(100);
            wrong += &left(&world, &before, &format!("{owned}, {finder}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Nothing is held after a stop, and no log is there: what an admin has narrowed since is the admin's.
#[test]
fn nothing_is_inferred_from_a_host_at_rest_that_an_admin_has_tuned() {
    let world = World::with_vm();
    world.start(100);
    world.stop(100);
    world.assert_at_rest();
    let kthreadd = 2;
    world.sim.state().tasks.get_mut(kthreadd).unwrap().mask = cpus("0-3");
    assert_eq!(status(&world.host, None).unwrap().forgotten, []);
    world.start(100);
    world.stop(100);
    assert_eq!(mask(&world, kthreadd), cpus("0-3"));
}

/// Nothing says whose that is, so a release of one VM gives it back as well.
#[test]
fn what_a_release_of_a_vm_finds_without_the_state_is_told() {
    let world = World::with_vm();
    world.start(100);
    world.lose_state();
    let account = done(world.release(Some(100)));
    assert_says(&account, "vm 100 released");
    assert_says(&account, "inferred from the host");
}

#[test]
fn a_run_that_is_over_is_something_to_let_go_of() {
    let world = World::with_vm();
    world.start(100);
    world.end_qemu(100);
    assert_says(&done(world.release(Some(100))), "vm 100 released");
}

#[test]
fn nothing_is_inferred_of_a_vm_that_the_log_knows() {
    let world = World::with_vm();
    world.start(100);
    // As a partition beside it leaves a thread that nobody pins.
    let main = world.sim.vm(100).pid;
    world.sim.state().tasks.get_mut(main).unwrap().mask = cpus("0-1,4-7");
    let born = world.sim.spawn(
        TaskSpec::named("born")
            .kthread(false)
            .on_cpus(cpus("0-1,4-7")),
    );
    let told = pin_hook::lifecycle::engine::recover::recover(&world.host).unwrap();
    assert!(told.is_empty(), "{told:?}");
    world.stop(100);
    assert_eq!(mask(&world, born), cpus("0-7"));
}

#[test]
fn the_start_of_another_vm_does_not_hide_what_nobody_remembers() {
    let world = World::with_two_vms();
    let before = world.capture();
    world.start(100);
    world.lose_state();
    world.start(101);
    world.assert_owns(101);
    done(world.release(None));
    world.end_worker();
    for (n, tid) in &world.sim.vm(100).vcpus {
        assert_eq!(mask(&world, *tid), cpus("0-7"), "vcpu {n}");
    }
    world.end_qemu(100);
    world.end_qemu(101);
    assert_eq!(left(&world, &before, "all"), "");
}

/// As the version before this one has written it: no checks, no number of records, no room.
fn in_version_1(log: &str) -> String {
    let lines = log.lines().filter(|line| !line.contains("{\"base\""));
    let lines = lines.map(|line| line.split(" #").next().unwrap_or_default());
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    text.replace("{\"version\":2}", "{\"version\":1}")
}

#[test]
fn what_the_version_before_has_taken_is_given_back() {
    let world = World::with_vm();
    let before = world.capture();
    world.start(100);
    let log = in_version_1(&log_of(&world));
    world.sim.put(JOURNAL, &log);
    world
        .host
        .files
        .remove("/run/pin-hook/journal.spare")
        .unwrap();
    assert!(status(&world.host, None).unwrap().ok);
    world.stop(100);
    assert_eq!(left(&world, &before, "nothing"), "");
    world.assert_at_rest();
}

/// A cut log may know the claims and not what was taken for them: nobody is told to let go of VMs that own
/// their CPUs.
#[test]
fn cpus_of_a_claim_that_is_known_are_not_said_to_be_nobodys() {
    let world = World::with_vm();
    world.start(100);
    let log = log_of(&world);
    let mut n_cuts = 0;
    for (what, cut) in damages(&log) {
        let is_known = parse(&cut).is_ok_and(|(state, _)| state.claims.values().any(Claim::owns));
        if !is_known {
            continue;
        }
        n_cuts += 1;
        let world = world.fork();
        world.sim.put(JOURNAL, &cut);
        let shown = status(&world.host, None).unwrap();
        assert_eq!(shown.forgotten, [], "{what}");
        assert_eq!(list(&world.host).unwrap().misfits, [], "{what}");
        let plan = world.plan(100);
        assert_eq!(plan.outcome, Outcome::Ready, "{what}: {plan:#?}");
    }
    assert!(n_cuts > 10, "{n_cuts}");
}

/// Whose a partition among the VMs is cannot be told by who may not read the state.
#[test]
fn who_may_not_read_the_state_is_not_told_to_let_go_of_vms() {
    let world = World::with_vm();
    world.start(100);
    world.sim.fail("read /run/qemu-server/", libc::EACCES, 99);
    world.sim.fail(&format!("read {JOURNAL}"), libc::EACCES, 99);
    let plan = world.plan(100);
    assert!(plan.error.is_none(), "{plan:#?}");
}

#[test]
fn a_run_that_gives_back_what_nobody_remembers_says_whose_it_was() {
    let world = World::with_two_vms();
    world.start(100);
    world.start(101);
    world.lose_state();
    let account = done(world.apply(100));
    assert_says(&account, "vm 101 loses its cpus until pin-hook apply 101");
    world.assert_owns(100);
}

/// At the first start of a boot there is no log either, and a VM that runs with a delegated scope has nothing
/// to lose.
#[test]
fn a_vm_that_owns_nothing_is_not_said_to_lose_cpus() {
    let world = World::with_two_vms();
    world.start(100);
    world.start(101);
    done(world.release(Some(101)));
    world.lose_state();
    let account = done(world.apply(100));
    let is_said = account
        .lines
        .iter()
        .any(|line| line.text.contains("loses its cpus"));
    assert!(!is_said, "{account:#?}");
    world.assert_owns(100);
}

/// What `check --table` is told of a VM that owns its CPUs is not that they are somebody else's.
#[test]
fn a_table_is_not_held_against_its_own_vm_when_the_state_is_lost() {
    let world = World::with_vm();
    world.start(100);
    world.lose_state();
    let (path, text) = (
        "/etc/pin-hook/100.toml".to_owned(),
        "cpus = \"2-3\"\n".to_owned(),
    );
    let checked = lint(&world.host, &TextFile { path, text });
    assert!(checked.error.is_none(), "{checked:#?}");
}
