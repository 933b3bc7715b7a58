//! What is special about some targets when it is wished for, and when it is given back.

use super::*;
use crate::domain::frequency::Range;
use crate::domain::memory::Pool;

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// Compares one target on a host with CPUs 0 to 7, all of them shared.
fn on_whole_host(target: &Target, wish: Option<Value>, held: Option<Held>, live: Value) -> Diff {
    let all = "0-7".parse().unwrap();
    in_context(context(&all, &all), target, wish, held, live)
}

fn in_context(
    context: Context<'_>,
    target: &Target,
    wish: Option<Value>,
    held: Option<Held>,
    live: Value,
) -> Diff {
    let wishes = wish.map(|wish| (target.clone(), Wish::from(wish)));
    let held = held.map(|held| (target.clone(), held));
    let live = Live::from([(target.clone(), live)]);
    let (wishes, held) = (wishes.into_iter().collect(), held.into_iter().collect());
    diff(&wishes, &held, &live, context)
}

#[test]
fn the_drop_in_of_a_unit_stays_with_whoever_has_set_its_cpus_meanwhile() {
    let unit = "a.slice".to_owned();
    let (property, file) = (Target::AllowedCpus(unit.clone()), Target::DropIn(unit));
    let made = Held::new(Value::Absent, Value::Present);
    let held = BTreeMap::from([
        (property.clone(), held("0-7", "0-1", None)),
        (file.clone(), made),
    ]);
    let wished = Desired::from([
        (property.clone(), Wish::from(cpus("0-1"))),
        (file.clone(), Wish::from(Value::Present)),
    ]);
    let all = "0-7".parse().unwrap();
    for (wishes, live, expected) in [
        (&Desired::new(), "0-1", "intend, intend, write, write"),
        (&Desired::new(), "5", "leave, forget, forget"),
        (&wished, "5", "reassert, intend, write"),
    ] {
        let live = Live::from([
            (property.clone(), cpus(live)),
            (file.clone(), Value::Present),
        ]);
        let found = diff(wishes, &held, &live, context(&all, &all));
        assert_eq!(verdict(&found), expected, "{live:?}");
    }
}

#[test]
fn a_setting_that_the_host_does_not_have_is_left() {
    let ksm = Target::Knob(Knob::KsmRun, Place::Host);
    let found = on_whole_host(&ksm, Some(text("0")), None, Value::Absent);
    assert_eq!(verdict(&found), "");
}

#[test]
fn what_is_refused_three_times_is_not_tried_again() {
    for (refused, expected) in [(2, "intend, write"), (3, "")] {
        let held = Held {
            refused,
            ..held("0-7", "0-1", None)
        };
        let found = on_whole_host(&irq(), Some(cpus("0-1")), Some(held), cpus("0-7"));
        assert_eq!(verdict(&found), expected, "{refused}");
    }
}

/// Another part of the program binds and unbinds it.
#[test]
fn the_driver_of_a_device_is_remembered_and_not_written() {
    let target = Target::Driver("0000:01:00.0".to_owned());
    let (own, vfio) = (|| text("nvme"), || text("vfio-pci"));
    let bound = || Held::new(own(), vfio());
    let due = Held {
        due: Some(NOW),
        ..bound()
    };
    for (wish, held, live, expected) in [
        (Some(vfio()), None, own(), "intend"),
        (Some(vfio()), Some(bound()), vfio(), ""),
        // It was to go back, and a VM has asked for it again.
        (Some(vfio()), Some(due), vfio(), "intend"),
        (None, Some(bound()), vfio(), ""),
        (None, Some(bound()), own(), "forget"),
    ] {
        let found = on_whole_host(&target, wish.clone(), held.clone(), live);
        assert_eq!(verdict(&found), expected, "{wish:?}, {held:?}");
    }
}

#[test]
fn a_pool_of_pages_that_were_found_in_part_is_given_back() {
    let pool = Target::Hugepages(Pool { node: 0, kib: 2048 });
    let held = Held::new(text("10"), text("20"));
    for (live, expected) in [
        ("10", "forget"),
        ("15", "intend, write"),
        ("20", "intend, write"),
        ("9", "leave, forget"),
        ("21", "leave, forget"),
    ] {
        let found = on_whole_host(&pool, None, Some(held.clone()), text(live));
        assert_eq!(verdict(&found), expected, "{live}");
    }
}

#[test]
fn a_container_that_pve_has_balanced_is_not_somebody_elses() {
    let container = Place::Container("200".parse().unwrap(), 7);
    let target = Target::Knob(Knob::ContainerCpus, container);
    for (live, expected) in [("6-7", "intend, write"), ("5-7", "reassert, intend, write")] {
        let held = held("2-3", "0-1", None);
        let found = on_whole_host(&target, Some(cpus("0-1")), Some(held), cpus(live));
        assert_eq!(verdict(&found), expected, "{live}");
    }
}

/// An empty list cannot be had again where the group has tasks.
#[test]
fn all_cpus_are_as_good_as_no_list() {
    let list = Target::Knob(Knob::OutsideCpus, Place::Group("lxc".to_owned()));
    for (live, expected) in [
        ("", "forget"),
        ("0-7", "forget"),
        ("0-5", "intend, write"),
        ("0-6", "leave, forget"),
    ] {
        let held = held("", "0-5", None);
        let found = on_whole_host(&list, None, Some(held), cpus(live));
        assert_eq!(verdict(&found), expected, "{live}");
    }
}

#[test]
fn limits_of_frequencies_that_the_hardware_has_cut_are_ours() {
    let range = Range {
        least: 800,
        most: 3000,
        ..Range::default()
    };
    let ranges = Frequencies::from([(0, range)]);
    let all = "0-7".parse().unwrap();
    let least = Target::Knob(Knob::MinFrequency, Place::Policy(0));
    let most = Target::Knob(Knob::MaxFrequency, Place::Policy(0));
    let held = |baseline, ours| Held::new(text(baseline), text(ours));
    let below = || held("800", "500");
    for (target, wish, held, live, expected) in [
        (&least, Some("500"), below(), "800", "intend, write"),
        (
            &least,
            Some("900"),
            held("800", "900"),
            "800",
            "reassert, intend, write",
        ),
        // Switching boost has set it to all that there is.
        (&most, None, held("2000", "1500"), "3000", "intend, write"),
        (&most, None, held("2000", "1500"), "2500", "leave, forget"),
    ] {
        let context = Context {
            frequencies: &ranges,
            ..context(&all, &all)
        };
        let found = in_context(context, target, wish.map(text), Some(held), text(live));
        assert_eq!(verdict(&found), expected, "{target}: {wish:?}, {live}");
    }
}

#[test]
fn a_kernel_thread_is_asked_for_what_it_had_as_long_as_it_remembers_our_request() {
    let asked = |baseline, ours| Held {
        asked: true,
        ..held(baseline, ours, None)
    };
    for (held, live, expected) in [
        (held("0-3", "0-1", None), "0-3", "forget"),
        (asked("0-3", "0-1"), "0-3", "intend, write"),
        (asked("0-3", "0-3"), "0-3", "forget"),
        // None of its CPUs is online, so there is nothing to ask for.
        (asked("9", "0-1"), "0-3", "forget"),
        // One that wakes up without an online CPU of its own.
        (held("0-3", "0-1", None), "0-7", "intend, write"),
    ] {
        let found = compare(&kernel_thread(), None, Some(held.clone()), live);
        assert_eq!(verdict(&found), expected, "{held:?}, live {live}");
    }
}

#[test]
fn only_a_kernel_thread_is_remembered_as_asked() {
    for (target, is_asked) in [(kernel_thread(), true), (irq(), false), (thread(), false)] {
        let found = on_whole_host(&target, Some(cpus("0-1")), None, cpus("0-7"));
        let asked: Vec<bool> = found.intend.iter().map(|(_, held)| held.asked).collect();
        assert_eq!(asked, [is_asked], "{target}");
    }
}

#[test]
fn a_kernel_thread_with_what_is_left_of_ours_on_its_node_was_sent_there() {
    let set = |list: &str| list.parse::<CpuSet>().unwrap();
    let nodes = BTreeMap::from([(0, set("0-3")), (1, set("4-7"))]);
    let (online, shared) = (set("0-7"), set("0-1,5-7"));
    let context = Context {
        nodes: &nodes,
        ..context(&online, &shared)
    };
    let held = || Some(held("0-7", "1,5-7", None));
    for (live, expected) in [("1", "intend, write"), ("0", "leave, forget")] {
        let found = in_context(context, &kernel_thread(), None, held(), cpus(live));
        assert_eq!(verdict(&found), expected, "{live}");
    }
}

#[test]
fn a_thread_changes_by_itself_when_a_cpu_of_ours_goes_offline() {
    for (ours, expected) in [
        ("0-1", "reassert, intend, write"),
        ("0-1,9", "intend, write"),
    ] {
        let held = held("0-3", ours, None);
        let found = on_whole_host(&thread(), Some(cpus(ours)), Some(held), cpus("5"));
        assert_eq!(verdict(&found), expected, "{ours}");
    }
}

#[test]
fn a_thread_whose_vm_is_given_other_cpus_is_moved_without_a_word() {
    for (wish, expected) in [("0-4", "intend, write"), ("0-5", "reassert, intend, write")] {
        let held = held("0-7", "0-5", None);
        let found = on_whole_host(&thread(), Some(cpus(wish)), Some(held), cpus("7"));
        assert_eq!(verdict(&found), expected, "{wish}");
    }
}

#[test]
fn what_a_thread_shows_in_a_cut_cgroup_is_not_all_that_it_asks_for() {
    let set = |list: &str| list.parse::<CpuSet>().unwrap();
    let (all, task) = (set("0-7"), TaskId { tid: 51, start: 7 });
    for (effective, are_groups_cut, ours, live, expected) in [
        // It has asked for more than the cgroup leaves, and shows what is wished for by chance.
        ("0-1", false, "0-5", "0-1", "intend, write"),
        ("0-7", false, "0-5", "0-1", "intend"),
        // Kernels before 6.2 forget what it asked for when the cgroup changes.
        ("4", true, "0-1", "4", "intend, write"),
        ("4", false, "0-1", "4", "reassert, intend, write"),
    ] {
        let effective = BTreeMap::from([(task, set(effective))]);
        let context = Context {
            effective: &effective,
            are_groups_cut,
            ..context(&all, &all)
        };
        let held = Some(held("0-3", ours, None));
        let found = in_context(context, &thread(), Some(cpus("0-1")), held, cpus(live));
        assert_eq!(
            verdict(&found),
            expected,
            "{effective:?}, {are_groups_cut}, {ours}"
        );
    }
}

#[test]
fn a_write_that_changed_nothing_to_be_seen_is_made_again() {
    let held = held("0-7", "0-7", Some("0-1,4-7"));
    let found = compare(&thread(), None, Some(held), "0-1,4-7");
    assert_eq!(verdict(&found), "intend, write");
}

#[test]
fn nothing_of_a_stage_is_forgotten_before_what_new_objects_inherit_is_back() {
    let default = Target::Knob(Knob::DefaultIrqAffinity, Place::Host);
    let both = [default.clone(), irq()].map(|target| (target, held("0-7", "0-1", None)));
    let held = BTreeMap::from(both);
    let all = "0-7".parse().unwrap();
    for (inherited, expected) in [("0-1", "intend, write"), ("0-7", "forget, forget")] {
        let live = Live::from([(default.clone(), cpus(inherited)), (irq(), cpus("0-7"))]);
        let found = diff(&Desired::new(), &held, &live, context(&all, &all));
        assert_eq!(verdict(&found), expected, "{inherited}");
    }
}
