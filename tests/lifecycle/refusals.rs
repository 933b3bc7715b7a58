//! Starts that are refused, having changed nothing.

use pin_hook::lifecycle::engine::account::{Account, Exit, Level};
use pin_hook::lifecycle::start::phase::Phase;

use super::world::{CONF, World, assert_says, done};
use crate::common::sim::{Machine, VmSpec};

/// Asserts that VM 100 is refused with one error, one line of help and no change of the host.
#[track_caller]
fn assert_refused(world: &World, error: &str) {
    let before = world.capture();
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    let of = |level| account.lines.iter().filter(move |line| line.level == level);
    let errors: Vec<_> = of(Level::Error).map(|line| line.text.as_str()).collect();
    assert_eq!(errors, [error]);
    assert_eq!(of(Level::Help).count(), 1, "{account:#?}");
    world.end_worker();
    world.assert_as(&before);
    assert_eq!(world.claim_state(100), "none");
}

#[test]
fn cpus_of_another_vm_are_refused_and_the_vm_is_named() {
    let world = World::with_two_vms().vm(100, CONF, "cpus = \"3-4\"\n");
    done(world.phase(Phase::PreStart, 101));
    let account = world.phase(Phase::PreStart, 100);
    assert_says(&account, "pin-hook release 101");
    let account = world.phase(Phase::PostStop, 101);
    assert_says(
        &account,
        "its cpus are reserved for a start until pin-hook release",
    );
    assert_refused(&world, "vm 100: cpu 4 is reserved for a start of vm 101");
    world.start(101);
    assert_refused(&world, "vm 100: cpu 4 is claimed by vm 101");
    world.assert_owns(101);
}

/// The policy of the node counts where the table cannot say one.
#[test]
fn a_broken_table_is_refused_as_the_node_says() {
    let world = World::with_vm().vm(100, CONF, "cpus = 2-3\n");
    assert_eq!(world.phase(Phase::PreStart, 100).exit, Exit::Refused);
    let settings = "[defaults]\non-refusal = \"warn\"\n";
    world.sim.put("/etc/pin-hook/host.toml", settings);
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Done, "{account:?}");
    assert!(
        account
            .lines
            .iter()
            .any(|line| line.level == Level::Warning)
    );
}

#[test]
fn a_reservation_counts_while_its_starter_lives() {
    let world = World::with_vm().vm(101, CONF, "cpus = \"3-4\"\n");
    done(world.phase(Phase::PreStart, 101));
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused);
    world.end_worker();
    done(world.phase(Phase::PreStart, 100));
    assert_eq!(world.claim_state(101), "none");
    assert_eq!(world.claim_state(100), "reserved");
}

#[test]
fn a_foreign_partition_is_refused() {
    let world = World::with_vm();
    world.foreign_partition("3");
    let error = "vm 100: cpu 3 is in the cpuset partition of cgroup system.slice";
    assert_refused(&world, error);
    // What ends the partition leaves the list.
    let partition = "/sys/fs/cgroup/system.slice/cpuset.cpus.partition";
    world.sim.poke(partition, "member").unwrap();
    let error = "vm 100: cpu 3 is in cpuset.cpus.exclusive of cgroup system.slice";
    assert_refused(&world, error);
    let account = world.phase(Phase::PreStart, 100);
    let help = "empty it (echo > /sys/fs/cgroup/system.slice/cpuset.cpus.exclusive), or give vm 100 \
                other cpus in its table (cpus = \"...\")";
    assert_says(&account, help);
    world.end_worker();
    let exclusive = "/sys/fs/cgroup/system.slice/cpuset.cpus.exclusive";
    world.sim.poke(exclusive, "\n").unwrap();
    // And what empties that leaves the list of what it may run on.
    let error = "vm 100: unit system.slice is limited to cpu 3, and would have no cpu left";
    assert_refused(&world, error);
    let listed = "/sys/fs/cgroup/system.slice/cpuset.cpus";
    world.sim.poke(listed, "0-7").unwrap();
    done(world.phase(Phase::PreStart, 100));
}

#[test]
fn a_container_that_may_run_on_the_cpus_only_is_refused_and_others_are_warned_of() {
    let pin = |world: &World, list: &str| {
        let conf = format!("cores: 2\nlxc.cgroup2.cpuset.cpus: {list}\n");
        world.sim.put("/etc/pve/nodes/pve1/lxc/200.conf", &conf);
    };
    let world = World::with_vm();
    pin(&world, "3");
    let error = "vm 100: container 200 is limited to cpu 3, and would have no cpu left";
    assert_refused(&world, error);
    pin(&world, "3-4");
    let account = done(world.phase(Phase::PreStart, 100));
    let warning = "container 200 is configured for cpus 3-4 and will have only cpu 4 of them";
    assert_says(&account, warning);
}

#[test]
fn absent_and_offline_cpus_are_refused() {
    let world = World::lab().vm(100, CONF, "cpus = \"7-8\"\n");
    assert_refused(&world, "vm 100: the host has no cpu 8, it has 0-7");
    let world = World::with_vm();
    world.sim.set_online(3, false).unwrap();
    assert_refused(&world, "vm 100: cpu 3 is offline");
}

#[test]
fn too_little_left_for_the_host_is_refused() {
    let conf = CONF.replace("cores: 2", "cores: 7");
    let world = World::lab().vm(100, &conf, "cpus = \"1-7\"\n");
    let error = "vm 100: one core with all its smt siblings must stay with the host, 0 would be \
                 left (housekeeping cpus 0)";
    assert_refused(&world, error);
}

#[test]
fn a_guest_or_unit_that_could_not_run_any_more_is_a_reason() {
    let world = World::with_vm();
    world.sim.vm_conf(107, "cores: 1\naffinity: 2-3\n");
    assert_refused(
        &world,
        "vm 100: vm 107 is limited to cpus 2-3, and would have no cpu left",
    );
    // That it could not start otherwise is the kernel's behaviour.
    let world = World::with_vm();
    done(world.phase(Phase::PreStart, 100));
    world.launch(100, &VmSpec::with_vcpus(2));
    done(world.phase(Phase::PostStart, 100));
    let spec = VmSpec::with_vcpus(1).affinity(crate::common::sim::cpus("2-3"));
    let error = world.sim.start_vm_as(107, &spec).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    let world = World::with_vm();
    world.sim.put(
        "/etc/systemd/system/x.service",
        "[Service]\nCPUAffinity=3\n",
    );
    let error = "vm 100: unit x.service is limited to cpu 3, and would have no cpu left";
    assert_refused(&world, error);
}

#[test]
fn a_guest_that_is_only_cut_is_a_warning() {
    let world = World::with_vm();
    world.sim.vm_conf(107, "cores: 1\naffinity: 1-3\n");
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(
        &account,
        "vm 107 is configured for cpus 1-3 and will have only cpu 1 of them",
    );
}

#[test]
fn a_broken_table_is_refused_with_its_place() {
    let world = World::lab().vm(100, CONF, "cpus = \"2-3\"\n[pin]\nvcpu = [2]\n");
    let before = world.capture();
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused);
    assert_says(&account, "/etc/pin-hook/100.toml:3:1");
    world.end_worker();
    world.assert_as(&before);
}

#[test]
fn a_table_that_others_can_write_is_refused_with_the_remedy() {
    let world = World::with_vm();
    world.sim.chown("/etc/pin-hook/100.toml", 0, 0o666);
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused);
    assert!(
        account.lines.iter().any(|line| line.level == Level::Help),
        "{account:#?}"
    );
}

#[test]
fn what_a_refusal_does_is_said_by_the_table() {
    for (policy, exit) in [
        ("abort", Exit::Refused),
        ("warn", Exit::Done),
        ("auto", Exit::Refused),
    ] {
        let table = format!("cpus = \"7-8\"\n[start]\non-refusal = \"{policy}\"\n");
        let world = World::lab().vm(100, CONF, &table);
        let account = world.phase(Phase::PreStart, 100);
        assert_eq!(account.exit, exit, "{policy}");
        assert_says(&account, "the host has no cpu 8");
    }
}

#[test]
fn nobody_is_there_to_read_the_refusal_of_an_incoming_migration() {
    let world = World::lab().vm(100, CONF, "cpus = \"7-8\"\n");
    world.migrating_from("pve2");
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(&account, "it starts without cpus of its own");
    world.launch(100, &VmSpec::with_vcpus(2));
    let account = done(world.phase(Phase::PostStart, 100));
    assert_says(&account, "it runs without cpus of its own");
    assert_eq!(world.claim_state(100), "none");
}

/// A migration from another cluster: PVE says so by the lock alone.
#[test]
fn nobody_is_there_to_read_the_refusal_of_a_remote_migration() {
    let conf = format!("{CONF}lock: migrate\n");
    let world = World::lab().vm(100, &conf, "cpus = \"7-8\"\n");
    let account = done(world.phase(Phase::PreStart, 100));
    assert_says(&account, "it starts without cpus of its own");
    let arriving = VmSpec::with_vcpus(2).run_state("inmigrate");
    world.launch(100, &arriving);
    let account = done(world.phase(Phase::PostStart, 100));
    assert_says(&account, "it runs without cpus of its own");
    world
        .sim
        .table(100, "cpus = \"7-8\"\nstart.on-refusal = \"abort\"\n");
    assert_eq!(world.phase(Phase::PreStart, 100).exit, Exit::Refused);
}

#[test]
fn threads_that_another_vm_would_starve_are_refused_in_both_orders() {
    let error = "pin.emulator of vm 100 is limited to cpus 4-5, and would have no cpu left";
    let pinned = "cpus = \"2-3\"\n[pin]\nemulator = \"4-5\"\n";
    let world = || {
        let world = World::lab().vm(100, CONF, pinned);
        world.vm(101, CONF, "cpus = \"4-5\"\n")
    };
    let world_of_101 = world();
    world_of_101.start(101);
    assert_refused(
        &world_of_101,
        &format!("vm 100: {error}, vm 101 owns cpus 4-5"),
    );
    let world = world();
    done(world.phase(Phase::PreStart, 100));
    let account = world.phase(Phase::PreStart, 101);
    assert_eq!(account.exit, Exit::Refused);
    assert_says(&account, &format!("vm 101: {error}"));
}

#[test]
fn cpus_of_isolcpus_are_refused_to_a_root_partition() {
    let machine = Machine {
        isolcpus: "2-3".to_owned(),
        ..Machine::default()
    };
    let table = "cpus = \"2-3\"\n[isolate]\nbackend = \"root\"\n";
    let world = World::of(&machine).vm(100, CONF, table);
    let error = "vm 100: backend \"root\" is refused: a partition of type root is invalid on cpus \
                 in isolcpus=";
    assert_refused(&world, error);
}

/// Error and help of what was refused.
fn told(account: &Account) -> Vec<&str> {
    assert_eq!(account.exit, Exit::Refused, "{account:#?}");
    let lines = account.lines.iter();
    lines.map(|line| line.text.as_str()).collect()
}

#[test]
fn what_needs_a_running_vm_says_how_to_get_one() {
    let world = World::with_vm();
    let expected = [
        "vm 100 is not running on this node",
        "start it (qm start 100): an enabled vm gets its cpus then, any other vm by pin-hook \
         apply 100 once it runs",
    ];
    for account in [world.phase(Phase::PostStart, 100), world.apply(100)] {
        assert_eq!(told(&account), expected);
    }
}

#[test]
fn a_guest_without_anything_to_do_is_a_notice_for_pve_and_an_error_by_hand() {
    let world = World::lab().vm(102, "template: 1\n", "cpus = \"2-3\"\n");
    world.sim.vm_conf(101, CONF);
    world
        .sim
        .put("/etc/pve/nodes/pve1/lxc/200.conf", "cores: 1\n");
    let elsewhere = "/etc/pve/nodes/pve2/qemu-server/106.conf";
    world.sim.put(elsewhere, CONF);
    let unhooked = "vm 101 has no table in /etc/pin-hook or /etc/pve/pin-hook";
    for (vmid, fact, help) in [
        (101, unhooked, "pin-hook init 101 --write writes one"),
        (
            102,
            "vm 102 is a template, which runs for backups only",
            "make a table for each vm that is cloned from it",
        ),
        (
            105,
            "there is no vm 105",
            "qm list shows the vms of this node",
        ),
        (106, "vm 106 is on node pve2", "run it on pve2"),
        (
            200,
            "200 is a container, and only a vm can own its cpus",
            "containers are kept off owned cpus without a table",
        ),
    ] {
        for phase in [Phase::PreStart, Phase::PostStart] {
            let account = done(world.phase(phase, vmid));
            assert_says(&account, &format!("{fact}: nothing to do"));
        }
        assert_eq!(told(&world.apply(vmid)), [fact, help]);
    }
}

/// Other CPUs for the VM itself would change nothing.
#[test]
fn a_pin_on_cpus_of_another_vm_names_that_vm() {
    let table = "cpus = \"6-7\"\npin.emulator = \"2\"\n";
    let world = World::with_vm().vm(101, CONF, table);
    world.start(100);
    let account = world.phase(Phase::PreStart, 101);
    assert_says(&account, "and would have no cpu left, vm 100 owns cpu 2");
    assert_says(
        &account,
        "stop vm 100, or give pin.emulator other cpus in the table of vm 101",
    );
    let is_elsewhere = |line: &str| line.contains("give vm 101 other cpus");
    assert!(!account.lines.iter().any(|line| is_elsewhere(&line.text)));
}

/// Nobody is to stop a VM for a start that would be refused without it, too.
#[test]
fn another_vm_is_named_only_where_the_start_would_be_granted_without_it() {
    let refused = |reserve: &str, cpus: &str| {
        let world = World::with_two_vms();
        world.start(101);
        world.sim.put("/etc/pin-hook/host.toml", reserve);
        let conf = match cpus {
            "auto" => CONF.replace("cores: 2", "cores: 8"),
            _ => CONF.to_owned(),
        };
        let world = world.vm(100, &conf, &format!("cpus = \"{cpus}\"\n"));
        let account = world.phase(Phase::PreStart, 100);
        assert_eq!(account.exit, Exit::Refused, "{account:#?}");
        let texts = account.lines.iter().map(|line| line.text.clone());
        texts.collect::<Vec<_>>().join("\n")
    };
    for (reserve, cpus, fact) in [
        (
            "reserve = \"2-3\"",
            "2-3",
            "cpus 2-3 must stay with the host",
        ),
        ("reserve = 3", "2-5", "3 cores with all their smt siblings"),
        ("reserve = 4", "2-3", "must stay with the host, which has 4"),
        ("", "0-7", "no cpu would be left for the host"),
        (
            "",
            "auto",
            "8 vcpus leave too little: no cpu would be left for the host",
        ),
    ] {
        let text = refused(reserve, cpus);
        assert!(text.contains(fact), "{text}");
        assert!(!text.contains("vm 101"), "{text}");
    }
    let text = refused("reserve = 2", "2-3,6-7");
    assert!(text.contains("vm 101"), "{text}");
}

#[test]
fn a_reserve_that_the_host_does_not_have_is_refused() {
    let world = World::with_vm();
    world
        .sim
        .put("/etc/pin-hook/host.toml", "reserve = \"0-1,9\"\n");
    let error = "vm 100: reserve names cpu 9, the host has 0-7";
    assert_refused(&world, error);
}
