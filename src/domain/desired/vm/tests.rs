//! Tests of what a VM wishes for itself.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::domain::claim::ClaimState;
use crate::domain::desired::desired;
use crate::domain::desired::tests::{
    SCOPE, claim, claims, facts, id, of_thread, set, some, thread,
};
use crate::domain::facts::Facts;
use crate::domain::state::Held;
use crate::domain::vm::TaskId;

/// Returns what VM 100 wishes for with these threads.
fn with_threads(claim: Claim, threads: Vec<Thread>, held: &BTreeMap<Target, Held>) -> Desired {
    desired(&claims([claim]), held, &facts_with(threads))
}

fn facts_with(threads: Vec<Thread>) -> Facts {
    let mut facts = facts();
    facts.vms.get_mut(&id(100)).unwrap().threads = threads;
    facts
}

fn value(wishes: &Desired, target: &Target) -> Option<String> {
    wishes.get(target).map(|wish| wish.value.to_string())
}

/// systemd would wait for the probe of a PCI driver while the VM is stopped.
#[test]
fn the_partition_of_a_vm_that_is_about_to_stop_is_of_type_root() {
    let group = Place::Group(format!("{SCOPE}/vcpu"));
    let kind = Target::Knob(Knob::Partition, group);
    for (backend, ending, expected) in [
        (Backend::Isolated, None, "isolated"),
        (Backend::Isolated, Some(Duration::from_secs(9)), "root"),
        (Backend::Root, None, "root"),
    ] {
        let mut claim = Claim { ending, ..claim() };
        claim.wishes.backend = backend;
        let wishes = with_threads(claim, Vec::new(), &BTreeMap::new());
        assert_eq!(value(&wishes, &kind).as_deref(), Some(expected));
    }
}

/// The kernel refuses it each time, and the start would end with a warning.
#[test]
fn a_thread_that_the_kernel_binds_is_left_where_it_is() {
    let bound = Thread {
        bound: true,
        ..thread("vhost-50", "", "0-7")
    };
    assert_eq!(of_thread(claim(), bound, "0-7"), [None, None]);
}

/// The queues of a network device would be on the CPUs of each other's vCPUs.
#[test]
fn vhost_workers_are_told_apart_by_when_they_were_made() {
    let worker = |tid, start| Thread {
        id: TaskId { tid, start },
        ..thread("vhost-50", "", "0-7")
    };
    // Numbers of threads begin again at `pid_max`.
    let (first, second) = (worker(900, 7), worker(60, 8));
    let ids = [first.id, second.id];
    let mut claim = claim();
    claim.wishes.vhost = vec![Some(set("5")), Some(set("6"))];
    let wishes = with_threads(claim, vec![second, first], &BTreeMap::new());
    let found = ids.map(|id| value(&wishes, &Target::Affinity(id)));
    assert_eq!(found, [Some("5".to_owned()), Some("6".to_owned())]);
}

/// Disks that are plugged in later would be served on the CPUs of the host.
#[test]
fn iothreads_that_a_table_does_not_name_have_what_it_says_of_all() {
    let mut claim = claim();
    claim.wishes.iothreads.insert("*".to_owned(), set("6"));
    for (name, expected) in [("io0", "4"), ("io1", "6")] {
        let iothread = Thread {
            iothread: Some(name.to_owned()),
            ..thread("IO", "", "0-7")
        };
        let [_, cpus] = of_thread(claim.clone(), iothread, "0-7");
        assert_eq!(cpus, some(expected, Some("0-7")), "{name}");
    }
}

/// A real-time thread on the CPUs of the host never lets the host run there.
#[test]
fn only_vcpus_with_a_cpu_of_their_own_are_real_time() {
    let mut claim = claim();
    claim.wishes.scheduler = Scheduler::Fifo(1);
    for (comm, class) in [
        ("CPU 1/KVM", Some("fifo:1")),
        ("CPU 2/KVM", None),
        ("kvm", None),
    ] {
        let one = thread(comm, "", "0-7");
        let target = Target::Class(one.id);
        let wishes = with_threads(claim.clone(), vec![one], &BTreeMap::new());
        assert_eq!(value(&wishes, &target).as_deref(), class, "{comm}");
    }
}

/// It would leave its partition at the next settling, or run on the VM's own CPUs.
#[test]
fn a_thread_in_hand_stays_where_it_was_sent() {
    let (vcpu, rest) = (format!("{SCOPE}/vcpu"), "0-1,5-7");
    for (one, group, cpus) in [
        (thread("CPU 0/KVM", "/vcpu", "2"), vcpu.as_str(), "2"),
        // It is nothing's vcpu any more, and was in the partition.
        (thread("kvm", "", rest), SCOPE, rest),
    ] {
        let targets = [Target::Membership(one.id), Target::Affinity(one.id)];
        let held = BTreeMap::from([
            (
                targets[0].clone(),
                Held::new(Value::Text(SCOPE.to_owned()), Value::Text(group.to_owned())),
            ),
            (
                targets[1].clone(),
                Held::new(Value::Cpus(set("0-7")), Value::Cpus(set(cpus))),
            ),
        ]);
        let what = format!("{one:?}");
        let mut facts = facts_with(vec![one]);
        facts.shared = set(rest);
        let wishes = desired(&claims([claim()]), &held, &facts);
        let found = targets.map(|target| value(&wishes, &target));
        let expected = [group, cpus].map(|text| Some(text.to_owned()));
        assert_eq!(found, expected, "{what}");
    }
}

/// A VM beside it owns those CPUs, and keeps everyone off them.
#[test]
fn a_thread_is_not_sent_to_cpus_of_another_vm() {
    let mut other = claim();
    let qemu = TaskId { tid: 70, start: 7 };
    (other.vmid, other.state) = (id(101), ClaimState::Running { qemu });
    (other.wishes.cpus, other.wishes.backend) = (set("6"), Backend::Slices);
    let mut one = claim();
    one.wishes.emulator = Some(set("5-6"));
    let kvm = thread("kvm", "", "0-7");
    let target = Target::Affinity(kvm.id);
    let wishes = desired(
        &claims([one, other]),
        &BTreeMap::new(),
        &facts_with(vec![kvm]),
    );
    assert_eq!(value(&wishes, &target).as_deref(), Some("5"));
}

/// A VM that is hooked needs it at its next start; one that was adopted would keep it for ever.
#[test]
fn the_delegation_of_a_scope_stays_where_the_next_start_needs_it() {
    for (stays, baseline) in [(true, Some(Value::Present)), (false, None)] {
        let mut claim = claim();
        claim.wishes.stays_delegated = stays;
        let wishes = with_threads(claim, Vec::new(), &BTreeMap::new());
        let wish = &wishes[&Target::Delegation(id(100))];
        assert_eq!(wish.baseline, baseline, "{stays}");
    }
}
