//! What is said is so, and what it tells to do works.

use pin_hook::domain::vm::TaskId;
use pin_hook::host::programs::NoPrograms;
use pin_hook::lifecycle::engine::account::Account;
use pin_hook::lifecycle::engine::run::Caller;
use pin_hook::lifecycle::hooking::enable::Hooking;
use pin_hook::lifecycle::start::phase::Phase;

use super::world::{World, assert_says, done, id};

#[test]
fn what_is_no_vm_of_this_node_has_nothing_to_release() {
    let world = World::with_vm();
    let release = |vmid| world.release(Some(vmid));
    assert_says(
        &done(release(555)),
        "there is no vm 555: nothing to release",
    );
    assert_says(
        &done(release(100)),
        "vm 100 owns no cpus, nothing to release",
    );
}

/// Root reads everything but without the capability to, as in a start.
#[test]
fn a_table_of_somebody_else_that_cannot_be_read_is_told_as_that() {
    let world = World::with_vm();
    let path = "/etc/pin-hook/100.toml";
    world.sim.chown(path, 1000, 0o600);
    world
        .sim
        .fail(&format!("=read {path}"), libc::EACCES, u32::MAX);
    let account = world.phase(Phase::PreStart, 100);
    assert_says(&account, "belongs to user 1000 instead of root");
    assert_says(&account, "chown root:root /etc/pin-hook/100.toml");
}

/// What only root may know is left out of what is only shown.
#[test]
fn disabling_is_shown_to_who_may_not_read_the_state() {
    let world = World::with_vm();
    world.start(100);
    let dir = "=read /run/pin-hook/journal";
    world.sim.fail(dir, libc::EACCES, u32::MAX);
    assert_says(&shown_disable(&world, 100), "what vm 100 owns is not known");
    world.sim.fail_no_more();
    world.sim.vm_conf(101, "cores: 2\n");
    let account = shown_disable(&world, 101);
    assert_says(&account, "vm 101 does not have the hookscript of pin-hook");
}

/// Returns what `disable --dry-run` says of a VM.
fn shown_disable(world: &World, vmid: u32) -> Account {
    let hooking = Hooking {
        host: &world.host,
        programs: &NoPrograms,
        vmid: id(vmid),
        is_dry: true,
    };
    done(hooking.disable(Caller {
        process: TaskId { tid: 1, start: 0 },
        group: String::new(),
        migrated_from: String::new(),
    }))
}
