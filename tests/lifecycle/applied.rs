//! `apply` of a table that was edited while its VM runs.

use pin_hook::domain::knob::Knob;
use pin_hook::lifecycle::engine::account::{Exit, Level};
use pin_hook::lifecycle::show::list::list;
use pin_hook::lifecycle::show::status::status;
use pin_hook::lifecycle::start::phase::Phase;

use super::world::{CONF, World, assert_says, done};
use crate::common::sim::VmSpec;

const TIMER: &str = "pin-hook-reconcile.timer";
const PATH: &str = "pin-hook-reconcile.path";

fn running() -> World {
    let world = World::with_vm();
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    world
}

/// What is asked for is there when the command ends, not only when reconcile has run; and nothing is said
/// of writes on the way to it.
#[test]
fn overlapping_cpus_are_in_force_when_apply_ends() {
    for cpus in ["3-4", "2,5", "4-5", "2-4"] {
        let world = running();
        world.sim.table(100, &format!("cpus = \"{cpus}\"\n"));
        let account = done(world.apply(100));
        let mut lines = account.lines.iter();
        let is_of_a_thread = lines.any(|line| line.text.starts_with("affinity of"));
        assert!(!is_of_a_thread, "{cpus}: {account:#?}");
        let status = status(&world.host, None).unwrap();
        assert!(status.ok, "{cpus}: {status:#?}");
        assert_eq!(status.pending, 0, "{cpus}: {status:#?}");
        world.assert_owns(100);
    }
}

/// A vCPU that the kernel lets nobody pin to its new CPU is a failure, told by the exit status.
#[test]
fn a_vcpu_that_cannot_be_pinned_anew_is_told() {
    let world = running();
    world.sim.table(100, "cpus = \"3-4\"\n");
    world.sim.fail("set_affinity ", libc::EINVAL, 20);
    let account = world.apply(100);
    assert!(account.exit >= Exit::Refused, "{account:#?}");
}

/// A thread that a vCPU begot a moment ago has not been moved yet, as one of many to come; a vCPU that is
/// not on its CPU, such as one that was plugged in, disturbs the guest.
#[test]
fn status_fails_while_nothing_looks_after_the_claims_and_apply_has_them_looked_after() {
    let world = World::with_vm();
    let unwatched = || {
        let status = status(&world.host, None).unwrap();
        (status.unwatched, status.ok)
    };
    assert_eq!(unwatched(), (vec![], true));
    world.start(100);
    assert_eq!(unwatched(), (vec![], true));
    world.sim.state().systemd.active.remove(TIMER);
    assert_eq!(unwatched(), (vec![TIMER], false));
    done(world.apply(100));
    assert_eq!(unwatched(), (vec![], true));
    world.sim.state().systemd.active.remove(TIMER);
    world.sim.fail(&format!("start {TIMER}"), libc::EIO, 1);
    let alone = format!("cannot start {TIMER}, so there are no regular checks");
    assert_says(&world.apply(100), &alone);
    for unit in [TIMER, PATH] {
        world.sim.state().systemd.active.remove(unit);
        world.sim.fail(&format!("start {unit}"), libc::EIO, 1);
    }
    let both = format!("cannot start {TIMER} and {PATH}, so a crash may not be cleaned up");
    assert_says(&world.apply(100), &both);
}

#[test]
fn status_fails_for_a_vcpu_that_is_elsewhere_and_not_for_another_thread() {
    let plug = |world: &World| world.sim.plug_vcpu(100);
    let beget = |world: &World| {
        let (_, vcpu) = world.sim.vm(100).vcpus[0];
        world.sim.spawn_thread(vcpu, "worker")
    };
    let conf = CONF.replace("cores: 2", "cores: 3\nvcpus: 2");
    for (is_vcpu, add) in [(true, &plug as &dyn Fn(&World) -> i32), (false, &beget)] {
        let world = World::lab().vm(100, &conf, "cpus = \"2-4\"\n");
        world.start(100);
        let tid = add(&world);
        let seen = status(&world.host, None).unwrap();
        let mut threads = seen.claims[0].threads.iter();
        let thread = threads.find(|thread| thread.tid == tid).unwrap();
        assert_eq!((thread.vcpu.is_some(), thread.ok), (is_vcpu, false));
        assert_eq!(seen.ok, !is_vcpu, "{seen:#?}");
        assert!(seen.drift.is_empty() && seen.pending > 0, "{seen:#?}");
        done(world.reconcile());
        let seen = status(&world.host, None).unwrap();
        assert!(seen.ok && seen.pending == 0, "{seen:#?}");
    }
}

/// An edited table that is not in force yet is told by those who are asked.
#[test]
fn an_edited_table_is_told_until_it_is_in_force() {
    let world = running();
    let told = || {
        let status = status(&world.host, Some("100".parse().unwrap())).unwrap();
        let listed = list(&world.host).unwrap();
        assert_eq!(status.claims[0].outdated, listed.vms[0].outdated);
        status.claims[0].outdated.clone().unwrap_or_default()
    };
    assert_eq!(told(), "");
    world.sim.table(100, "cpus = \"3-4\"\n");
    assert_eq!(
        told(),
        "its table or config has changed since; this takes effect with pin-hook apply 100 or at \
         the next start"
    );
    done(world.apply(100));
    assert_eq!(told(), "");
    world.sim.table(100, "cpus = \"3-400\"\n");
    assert!(told().starts_with("its table or config has changed since and would be refused: "));
    world.sim.table(100, "cpus = 3\n");
    assert!(told().starts_with("its table or config has changed since and cannot be used: "));
}

#[test]
fn who_owns_nothing_is_not_let_go_of() {
    let world = running();
    let said = |vmid| {
        let account = done(world.release(vmid));
        account.lines.last().unwrap().text.clone()
    };
    assert_eq!(said(Some(999)), "there is no vm 999: nothing to release");
    assert!(said(Some(100)).starts_with("vm 100 released, "));
    assert_eq!(said(None), "no vm owns cpus, nothing to release");
}

/// PVE's kernel keeps KVM from ever polling; what lifts that is given back with the rest.
#[test]
fn halt_poll_has_an_effect_on_pves_kernel() {
    let table = "cpus = \"2-3\"\n[host]\nhalt-poll = \"100us\"\n";
    let world = World::lab().vm(100, CONF, table);
    let (time, grow) = (Knob::HaltPoll.row().path, Knob::HaltPollGrow.row().path);
    world.sim.put(time, "200000\n");
    world.sim.put(grow, "0\n");
    let account = done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    assert_eq!(world.sim.get(time), "100000\n");
    assert_eq!(world.sim.get(grow), "2\n");
    let told = account
        .lines
        .iter()
        .any(|line| line.level == Level::Info && line.text.contains("halt_poll_ns_grow is 0"));
    assert!(told, "{account:#?}");
    done(world.release(Some(100)));
    assert_eq!(world.sim.get(time), "200000\n");
    assert_eq!(world.sim.get(grow), "0\n");
}

/// A guest runs with the vCPUs that it was started with, whatever its config says by now: none of them
/// loses its CPU.
#[test]
fn a_config_that_was_cut_meanwhile_takes_no_cpu_from_a_vcpu() {
    let world = running();
    let conf = CONF.replace("cores: 2", "cores: 1");
    world
        .sim
        .put("/etc/pve/nodes/pve1/qemu-server/100.conf", &conf);
    let status = || status(&world.host, None).unwrap();
    assert_eq!(status().claims[0].outdated, None);
    assert!(world.plan(100).changes.is_empty());
    done(world.apply(100));
    assert!(status().ok, "{:#?}", status());
    world.assert_owns(100);
}

/// A table for the guest that a start will make does not fit the one that runs, and is said to be for later.
#[test]
fn a_table_for_fewer_vcpus_is_for_the_next_start() {
    let world = running();
    let conf = CONF.replace("cores: 2", "cores: 1");
    world
        .sim
        .put("/etc/pve/nodes/pve1/qemu-server/100.conf", &conf);
    world.sim.table(100, "cpus = \"2\"\n");
    let outdated = status(&world.host, None).unwrap().claims[0]
        .outdated
        .clone();
    let told = "this takes effect at the next start: it runs with 2 vcpus until then";
    assert!(
        outdated.as_ref().is_some_and(|text| text.contains(told)),
        "{outdated:?}"
    );
    let runs = "the vm runs with 2 vcpus: its config names fewer";
    assert_says(&world.apply(100), runs);
    let notices = world.plan(100).notices;
    assert!(
        notices.iter().any(|text| text.starts_with(runs)),
        "{notices:?}"
    );
    world.stop(100);
    world.start_as(100, &VmSpec::with_vcpus(1));
    world.assert_owns(100);
}

/// Whoever reads that an apply was refused asks what the VM has now.
#[test]
fn a_refused_apply_says_what_the_vm_still_has() {
    let world = World::with_vm();
    world.start(100);
    for table in ["cpus = \"7-8\"\n", "cpus = \"7-\"\n"] {
        world.sim.table(100, table);
        let account = world.apply(100);
        assert_ne!(account.exit, Exit::Done);
        assert_says(&account, "vm 100 still owns cpus 2-3, as before");
        world.assert_owns(100);
    }
}

/// The cluster has a table as well, and that is the one that was edited.
#[test]
fn apply_says_which_of_two_tables_it_reads() {
    let world = World::with_vm();
    world.start(100);
    let hidden = "/etc/pve/pin-hook/100.toml";
    world.sim.put(hidden, "cpus = \"4-5\"\n");
    let said = format!("vm 100: /etc/pin-hook/100.toml is read, {hidden} is not");
    assert_says(&done(world.apply(100)), &said);
    world.assert_owns(100);
}
