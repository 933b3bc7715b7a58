//! What is said is so, and what it tells to do works.

use pin_hook::domain::vm::TaskId;
use pin_hook::host::programs::NoPrograms;
use pin_hook::host::pve::TextFile;
use pin_hook::lifecycle::engine::account::{Account, Exit, Level};
use pin_hook::lifecycle::engine::run::Caller;
use pin_hook::lifecycle::hooking::enable::Hooking;
use pin_hook::lifecycle::show::lint::{Lint, lint};
use pin_hook::lifecycle::show::status::status;
use pin_hook::lifecycle::start::phase::Phase;

use super::world::{CONF, World, assert_says, done, id, mask};
use crate::common::sim::{VmSpec, cpus};

const DEVICE: &str = "0000:01:00.0";
const PCI_CONF: &str =
    "cores: 2\nmemory: 1024\nhookscript: local:snippets/pin-hook\nhostpci0: 0000:01:00.0\n";

/// Returns what a check says of the table of VM 100.
fn checked(world: &World) -> Lint {
    let path = "/etc/pin-hook/100.toml".to_owned();
    let text = world.sim.get(&path);
    lint(&world.host, &TextFile { path, text })
}

fn error_of(lint: &Lint) -> String {
    let error = lint.error.as_ref();
    error.map(|error| error.message.clone()).unwrap_or_default()
}

/// Returns the error of a plan with its help, and the sentence at its end.
fn planned(world: &World) -> (String, String) {
    let plan = world.plan(100);
    let error = plan.error.unwrap_or_default();
    let help = error.help.unwrap_or_default();
    (format!("{}; {help}", error.message), plan.summary)
}

/// A node with a device of VM 100, and a table with more.
fn with_device(class: &str, driver: &str, more: &str) -> World {
    let world = World::lab().vm(100, PCI_CONF, &format!("cpus = \"2-3\"\n{more}"));
    world.sim.put_removable(DEVICE, "10de:2204");
    let dir = "/sys/devices/pci0000:00/0000:01:00.0";
    world.sim.put(&format!("{dir}/class"), class);
    world.sim.give_to(DEVICE, driver);
    world
}

#[test]
fn a_table_that_cannot_be_used_has_one_remedy_in_every_phase() {
    let world = World::lab().vm(100, CONF, "cpus = 2-3\n");
    world.migrating_from("pve2");
    assert_says(
        &done(world.phase(Phase::PreStart, 100)),
        "it starts without cpus of its own",
    );
    world.launch(100, &VmSpec::with_vcpus(2));
    let account = done(world.phase(Phase::PostStart, 100));
    assert_says(&account, "it runs without cpus of its own");
    let help = "cpus takes a cpulist or \"auto\"";
    assert_says(&account, help);
    world.migrating_from("");
    let account = world.phase(Phase::PostStart, 100);
    assert_eq!(account.exit, Exit::Refused);
    assert_says(&account, help);
    let lines = account.lines.iter();
    let helps: Vec<_> = lines.filter(|line| line.level == Level::Help).collect();
    assert!(!helps.iter().any(|line| line.text.contains("try again")));
}

#[test]
fn more_hugepages_than_a_node_has_memory_are_refused_as_that() {
    let conf =
        "cores: 2\nmemory: 40960\nnuma: 1\nhugepages: 2\nhookscript: local:snippets/pin-hook\n";
    let table = "cpus = \"2-3\"\n[memory]\nhugepages = { timeout = \"5s\" }\n";
    let world = World::lab().vm(100, conf, table);
    let node = "/sys/devices/system/node/node0/meminfo";
    world.sim.put(node, "Node 0 MemTotal:       1996440 kB\n");
    let text = "the vm needs 20480 hugepages of 2 MiB (40960 MiB) from node 0, which has 1949 MiB of \
                memory in all";
    let (error, summary) = planned(&world);
    assert!(error.contains(text), "{error}");
    assert!(error.contains("give the vm less memory"), "{error}");
    assert!(!error.contains("hugepagesz"), "{error}");
    assert_eq!(summary, "vm 100 would not start, nothing would change");
    assert!(error_of(&checked(&world)).contains(text));
    let account = world.phase(Phase::PreStart, 100);
    assert_eq!(account.exit, Exit::Refused);
    assert_says(&account, text);
    world.sim.put(node, "Node 0 MemTotal:       99996440 kB\n");
    assert!(!planned(&world).0.contains(text));
}

#[test]
fn a_bridge_is_refused_as_what_it_is() {
    let (told, help) = (
        "0000:01:00.0 is a pci bridge, which cannot be passed through",
        "--delete hostpci0",
    );
    for more in [
        "[pci]\nreset = \"auto\"\n",
        "[pci]\nbind = { hostpci0 = \"stay\" }\n",
    ] {
        let world = with_device("0x060400\n", "pcieport", more);
        let (error, summary) = planned(&world);
        assert!(error.contains(told) && error.contains(help), "{error}");
        assert_eq!(summary, "vm 100 would not start: qemu refuses hostpci0");
        assert!(error_of(&checked(&world)).contains(told));
        let account = world.phase(Phase::PreStart, 100);
        assert_eq!(account.exit, Exit::Refused);
        assert_says(&account, told);
        assert_says(&account, help);
    }
    let world = with_device("0x060400\n", "pcieport", "");
    assert!(planned(&world).0.contains(told));
    let lint = checked(&world);
    assert!(lint.ok && lint.warnings.iter().any(|one| one.text.contains(told)));
}

#[test]
fn a_check_refuses_what_a_start_would_for_its_devices() {
    let world = with_device("0x020000\n", "igb", "[pci]\nreset = \"flr\"\n");
    let told = "cannot reset hostpci0 (0000:01:00.0): host driver igb uses it";
    let lint = checked(&world);
    assert!(!lint.ok);
    assert!(error_of(&lint).contains(told), "{lint:?}");
    assert_says(&world.phase(Phase::PreStart, 100), told);
    let steady = |world: World| {
        let methods = "/sys/devices/pci0000:00/0000:01:00.0/reset_method";
        world.sim.put(methods, "flr bus\n");
        world
    };
    let bound = "[pci]\nreset = \"flr\"\nbind = { hostpci0 = \"return\" }\n";
    let lint = checked(&steady(with_device("0x020000\n", "igb", bound)));
    assert!(lint.ok, "{lint:?}");
}

#[test]
fn a_start_that_fails_without_the_program_as_well_is_told_as_that() {
    let world = World::lab().vm(100, PCI_CONF, "cpus = \"2-3\"\n[pci]\nreset = \"flr\"\n");
    world.sim.put_removable("0000:02:00.0", "10de:2204");
    let (error, summary) = planned(&world);
    assert!(
        error.contains("there is no pci device 0000:01:00.0"),
        "{error}"
    );
    assert_eq!(summary, "vm 100 would not start: pve refuses hostpci0");
    world.sim.table(100, "cpus = 2-3\n");
    assert_eq!(planned(&world).1, summary);
}

#[test]
fn an_edited_table_that_others_are_in_the_way_of_is_not_promised() {
    let world = World::with_two_vms();
    world.start(100);
    world.start(101);
    let outdated = || {
        status(&world.host, Some(id(100))).unwrap().claims[0]
            .outdated
            .clone()
    };
    world.sim.table(100, "cpus = \"3-4\"\n");
    let told = "would be refused now: cpu 4 is claimed by vm 101";
    assert!(outdated().unwrap().ends_with(told), "{:?}", outdated());
    assert_says(&world.apply(100), "cpu 4 is claimed by vm 101");
    world.sim.table(100, "cpus = \"2-3,6\"\n");
    assert!(
        outdated()
            .unwrap()
            .contains("takes effect with pin-hook apply 100")
    );
}

#[test]
fn so_many_vcpus_are_offered_as_fit_beside_the_tables_of_others() {
    let conf = CONF.replace("cores: 2", "cores: 4");
    let world = World::lab()
        .vm(100, &conf, "cpus = \"auto\"\nsmt = \"idle-sibling\"\n")
        .vm(101, CONF, "cpus = \"2-3\"\n");
    let (error, _) = planned(&world);
    assert!(error.ends_with("; give vm 100 2 vcpus at most"), "{error}");
    world.sim.table(101, "cpus = \"2-7\"\n");
    let (error, _) = planned(&world);
    let told = "; give vm 100 3 vcpus at most and let others own fewer cpus (vm 101 has 2-7)";
    assert!(error.contains(told), "{error}");
    world.sim.table(101, "cpus = \"2-3\"\n");
    world.sim.vm_conf(100, CONF);
    assert_eq!(planned(&world).0, "; ");
}

#[test]
fn interrupts_of_a_vm_that_has_gone_are_not_counted() {
    let world = World::lab()
        .vm(100, CONF, "cpus = \"4-5\"\n")
        .vm(101, CONF, "cpus = \"2-3\"\n");
    let stuck = || status(&world.host, None).unwrap().interrupts.unchangeable;
    world.start(100);
    let alone = stuck();
    world.start(101);
    assert!(stuck() > alone);
    world.stop(101);
    assert_eq!(stuck(), alone);
}

#[test]
fn status_says_why_a_vm_without_cpus_would_not_get_them() {
    let world = World::lab().vm(100, CONF, "cpus = \"2-9\"\n");
    world.launch(100, &VmSpec::with_vcpus(2));
    let why = || {
        status(&world.host, None)
            .unwrap()
            .why_unowned
            .remove(&id(100))
    };
    let told = why().unwrap();
    assert!(
        told.message.contains("the host has no cpus 8-9"),
        "{told:?}"
    );
    assert!(told.help.unwrap().ends_with("; then pin-hook apply 100"));
    world.sim.table(100, "cpus = 2-3\n");
    assert!(why().unwrap().message.contains("must be in quotes"));
    world.sim.table(100, "cpus = \"2-3\"\n");
    assert!(why().is_none());
}

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

/// A VM that is disabled runs as any other, whatever has become of the state.
#[test]
fn disabling_lets_go_of_what_nobody_remembers() {
    let world = World::with_vm();
    world.start(100);
    world.lose_state();
    let _ = disable(&world, 100, false);
    world.end_worker();
    for (n, tid) in &world.sim.vm(100).vcpus {
        assert_eq!(mask(&world, *tid), cpus("0-7"), "vcpu {n}");
    }
}

/// Returns what `disable --dry-run` says of a VM.
fn shown_disable(world: &World, vmid: u32) -> Account {
    done(disable(world, vmid, true))
}

fn disable(world: &World, vmid: u32, is_dry: bool) -> Account {
    let hooking = Hooking {
        host: &world.host,
        programs: &NoPrograms,
        vmid: id(vmid),
        is_dry,
    };
    hooking.disable(Caller {
        process: TaskId { tid: 1, start: 0 },
        group: String::new(),
        migrated_from: String::new(),
    })
}
