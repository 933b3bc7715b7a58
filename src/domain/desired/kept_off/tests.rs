//! Tests of what is kept off owned CPUs.

use std::collections::BTreeMap;

use super::*;
use crate::domain::claim::{Claim, ClaimState};
use crate::domain::desired::desired;
use crate::domain::desired::tests::{claim, claims, facts, id, narrowed, set, some, task};
use crate::domain::facts::Irq;
use crate::domain::state::Held;
use crate::domain::vm::TaskId;

/// What VM 100, with CPUs 2 to 4, leaves to everyone else.
const REST: &str = "0-1,5-7";

type Found = Option<(String, Option<String>)>;

fn found(wishes: &Desired, target: &Target) -> Found {
    let wish = wishes.get(target)?;
    let baseline = wish.baseline.as_ref().map(ToString::to_string);
    Some((wish.value.to_string(), baseline))
}

fn held(target: &Target, baseline: &str, ours: &str) -> (Target, Held) {
    let held = Held::new(Value::Cpus(set(baseline)), Value::Cpus(set(ours)));
    (target.clone(), held)
}

/// A VM beside it, with CPUs of its own.
fn neighbour(cpus: &str, backend: Backend) -> Claim {
    let mut other = claim();
    let qemu = TaskId { tid: 70, start: 7 };
    (other.vmid, other.state) = (id(101), ClaimState::Running { qemu });
    (other.wishes.cpus, other.wishes.backend) = (set(cpus), backend);
    other
}

/// The same host where CPU 7 is offline.
fn without_cpu_7() -> Facts {
    Facts {
        online: set("0-6"),
        shared: set("0-6"),
        ..facts()
    }
}

fn of_kernel_thread(
    claims: &Claims,
    held: &BTreeMap<Target, Held>,
    (affinity, kept): (&str, &str),
    facts: Facts,
) -> Found {
    let facts = Facts {
        kernel_threads: vec![KernelThread {
            id: task(9),
            comm: "kauditd".to_owned(),
            affinity: set(affinity),
            kept: set(kept),
            bound: false,
        }],
        ..facts
    };
    let wishes = desired(claims, held, &facts);
    found(&wishes, &Target::KernelThread(task(9)))
}

/// The kernel refuses to move a thread to CPUs that are all in a partition or offline: then it stays where it is.
#[test]
fn kernel_threads_are_sent_where_they_can_run() {
    let mut alone = claim();
    alone.wishes.kernel_threads = false;
    let other = neighbour("5", Backend::Slices);
    // The CPUs of a partition are nobody's, whatever its VM wishes for.
    let found = of_kernel_thread(
        &claims([alone, other]),
        &BTreeMap::new(),
        ("0-7", "0-7"),
        facts(),
    );
    assert_eq!(found, some("0-1,6-7", Some("0-7")));
    let found = of_kernel_thread(
        &claims([claim()]),
        &BTreeMap::new(),
        ("2", "2,7"),
        without_cpu_7(),
    );
    assert_eq!(found, some("0-1,5-6", Some("2,7")));
}

/// It would have all CPUs for ever instead of those that an admin gave it.
#[test]
fn a_kernel_thread_in_hand_is_given_back_its_own_cpus() {
    let kthreadd = Target::KernelThread(TaskId { tid: 2, start: 0 });
    let thread = Target::KernelThread(task(9));
    let parent = held(&kthreadd, "0-7", REST);
    for (held, expected) in [
        // Nothing is wished for: it gets back what is remembered of it.
        (
            BTreeMap::from([parent.clone(), held(&thread, "2-3", REST)]),
            None,
        ),
        // One that was born narrowed has no CPUs of its own.
        (BTreeMap::from([parent]), some("0-7", Some("0-7"))),
    ] {
        let found = of_kernel_thread(&Claims::new(), &held, (REST, REST), facts());
        assert_eq!(found, expected, "{held:?}");
    }
}

/// The kernel would refuse it each time.
#[test]
fn a_kernel_thread_is_asked_for_cpus_of_its_own_as_soon_as_a_partition_leaves_any() {
    let mut claim = claim();
    claim.wishes.kernel_threads = false;
    let claims = claims([claim]);
    let target = Target::KernelThread(task(9));
    for (baseline, value) in [("2-3", REST), ("3,5", "3,5")] {
        let (_, mut one) = held(&target, baseline, REST);
        one.asked = true;
        let held = BTreeMap::from([(target.clone(), one)]);
        let facts = Facts {
            shared: set(REST),
            ..facts()
        };
        let found = of_kernel_thread(&claims, &held, (REST, REST), facts);
        assert_eq!(found, some(value, Some(baseline)));
    }
}

/// Once it is in hand, a write of the mask lets unbound work onto the CPUs of partitions too.
#[test]
fn the_mask_of_unbound_work_is_left_to_the_kernel_until_another_vm_needs_it() {
    let target = Target::Knob(Knob::UnboundCpus, Place::Host);
    let in_hand = BTreeMap::from([held(&target, "0-7", "0-5,7")]);
    let none = BTreeMap::new();
    let [one, two] = [
        claims([claim()]),
        claims([claim(), neighbour("6", Backend::Slices)]),
    ];
    for (claims, held, expected) in [
        (&one, &none, None),
        (&one, &in_hand, some(REST, None)),
        (&two, &none, some("0-1,5,7", None)),
        (&two, &in_hand, some("0-1,5,7", None)),
    ] {
        let facts = Facts {
            work: BTreeMap::from([(target.clone(), set("0-7"))]),
            ..facts()
        };
        let wishes = desired(claims, held, &facts);
        assert_eq!(found(&wishes, &target), expected, "{held:?}");
    }
}

/// The kernel takes no empty mask: the work would stay on the CPUs of the VM.
#[test]
fn work_that_has_nowhere_else_to_run_goes_to_the_host() {
    let target = Target::Knob(Knob::WatchdogCpus, Place::Host);
    for (live, expected) in [("2-3", REST), ("3,6", "6")] {
        let facts = Facts {
            work: BTreeMap::from([(target.clone(), set(live))]),
            ..facts()
        };
        let wishes = desired(&claims([claim()]), &BTreeMap::new(), &facts);
        assert_eq!(found(&wishes, &target), some(expected, None), "{live}");
    }
}

fn of_irq(
    claims: &Claims,
    held: &BTreeMap<Target, Held>,
    (actions, affinity, node): (&str, &str, Option<u32>),
    facts: Facts,
) -> Option<String> {
    let facts = Facts {
        irqs: vec![Irq {
            number: 24,
            actions: actions.to_owned(),
            affinity: set(affinity),
            node,
        }],
        ..facts
    };
    let wishes = desired(claims, held, &facts);
    found(&wishes, &Target::irq(24, actions)).map(|(value, _)| value)
}

/// The kernel refuses an interrupt without a CPU that is online: it would stay with the VM.
#[test]
fn interrupts_are_sent_where_they_can_be_served() {
    let (running, none) = (claims([claim()]), BTreeMap::new());
    let mut node_0 = claim();
    node_0.wishes.cpus = set("0-3");
    let node_0 = claims([node_0]);
    for (claims, affinity, node, facts, expected) in [
        // Of its own CPUs only one is left, which is offline: 24 modulo the four others.
        (&running, "2,7", None, without_cpu_7(), "0"),
        (&running, "2,6", None, without_cpu_7(), "6"),
        // Its node is owned as a whole.
        (&node_0, "2-3", Some(0), facts(), "4"),
    ] {
        let value = of_irq(claims, &none, ("ahci", affinity, node), facts);
        assert_eq!(value.as_deref(), Some(expected), "{affinity}");
    }
}

/// It would stay on one CPU long after the VM that it had to leave is gone.
#[test]
fn an_interrupt_stays_elsewhere_only_where_it_had_to_go() {
    let target = Target::irq(24, "ahci");
    for (refused, ours, expected) in [(0, "6", REST), (1, "6", "6"), (1, "4", REST)] {
        let (_, mut one) = held(&target, "0-7", ours);
        one.refused = refused;
        let held = BTreeMap::from([(target.clone(), one)]);
        let value = of_irq(&claims([claim()]), &held, ("ahci", ours, None), facts());
        assert_eq!(value.as_deref(), Some(expected), "{refused} {ours}");
    }
}

/// The interrupt of a device goes to the vCPU that waits for it, but not to a CPU that is off.
#[test]
fn an_interrupt_of_a_device_goes_to_its_vcpu_while_that_has_a_cpu() {
    let address = "0000:01:00.0";
    let mut claim = claim();
    claim.devices = BTreeMap::from([(address.to_owned(), "10de:2204".to_owned())]);
    claim.wishes.device_interrupts = Some(PciIrqs::Vcpus);
    let claims = claims([claim]);
    let off = Facts {
        online: set("0-1,3-7"),
        ..facts()
    };
    for (vector, facts, expected) in [
        (0, facts(), "2"),
        (1, facts(), "3"),
        (2, facts(), "2"),
        (0, off, REST),
    ] {
        let actions = format!("vfio-msix[{vector}]({address})");
        let irq = (actions.as_str(), "0-7", None);
        let value = of_irq(&claims, &BTreeMap::new(), irq, facts);
        assert_eq!(value.as_deref(), Some(expected), "{vector}");
    }
}

/// It would be kept off the CPUs of a VM that has long been gone.
#[test]
fn an_interrupt_that_no_driver_has_set_up_yet_is_given_back_the_whole_default() {
    let irq = ("ahci", REST, Some(1));
    let some_offline = Facts {
        whole_nodes: facts().nodes,
        ..without_cpu_7()
    };
    for facts in [facts(), some_offline] {
        let value = of_irq(&Claims::new(), &narrowed(REST, None), irq, facts);
        assert_eq!(value.as_deref(), Some("0-7"));
    }
}

#[test]
fn vectors_are_told_by_their_handlers() {
    for (actions, expected) in [
        ("vfio-msix[3](0000:01:00.0)", Some(("0000:01:00.0", 3))),
        ("vfio-msi[0](0000:01:00.0)", Some(("0000:01:00.0", 0))),
        ("vfio-intx(0000:01:00.0)", Some(("0000:01:00.0", 0))),
        ("vfio-msix[x](0000:01:00.0)", None),
        ("nvme0q3", None),
        ("vfio-msix[3](0000:01:00.0) other", None),
    ] {
        assert_eq!(vector_of(actions), expected, "{actions}");
    }
}
