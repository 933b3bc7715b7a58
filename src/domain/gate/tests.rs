//! Tests of the kernel gate.

use super::*;

/// A host on which everything works.
fn facts(text: &str) -> GateFacts {
    GateFacts {
        release: text.parse().unwrap(),
        features: Features {
            remote_partitions: true,
            systemd_bus: true,
        },
        mlx5_loaded: false,
        isolcpus_overlap: false,
        work_stays: false,
        gate_override: false,
    }
}

#[test]
fn parses_releases_of_distributions() {
    for (text, numbers) in [
        ("6.14.11-4-pve\n", "6.14.11"),
        ("6.12.107+deb13-amd64", "6.12.107"),
        ("7.3.4+deb14-amd64", "7.3.4"),
        ("6.8.12-15-pve", "6.8.12"),
        ("6.8.0-87-generic", "6.8.0"),
        ("6.15.0-rc3", "6.15.0"),
        ("7.0", "7.0.0"),
    ] {
        let release: KernelRelease = text.parse().unwrap();
        assert_eq!(release.to_string(), numbers);
    }
    for text in ["", "pve", "6", "6-1", "6.x", "99999999999.1.1"] {
        assert!(text.parse::<KernelRelease>().is_err(), "{text:?}");
    }
}

#[test]
fn auto_follows_the_table_of_hazards() {
    use Backend::{Isolated, Root, Slices};
    for (release, backend) in [
        ("6.8.12-15-pve", Slices),
        ("6.11.11", Slices),
        ("6.12.29", Slices),
        ("6.12.30", Root),
        ("6.12.81", Root),
        ("6.12.82", Isolated),
        ("6.12.107+deb13-amd64", Isolated),
        ("6.13.12", Slices),
        ("6.14.5-1-pve", Slices),
        ("6.14.8-2-pve", Root),
        ("6.14.11-4-pve", Root),
        ("6.17.2-1-pve", Root),
        ("6.18.22", Root),
        ("6.18.23", Isolated),
        ("6.19.12", Root),
        ("6.19.13", Isolated),
        ("7.0.0", Isolated),
        ("7.3.4+deb14-amd64", Isolated),
    ] {
        let choice = choose(BackendWish::Auto, &facts(release)).unwrap();
        assert_eq!(choice.backend, backend, "{release}: {}", choice.reason);
        assert_eq!(choice.warning, None, "{release}");
    }
}

#[test]
fn without_systemd_there_is_only_affinity_and_that_is_a_warning() {
    let mut facts = facts("6.8.12");
    facts.features.systemd_bus = false;
    let choice = choose(BackendWish::Auto, &facts).unwrap();
    assert_eq!(choice.backend, Backend::Affinity);
    assert_eq!(
        choice.reason,
        "kernel 6.8.12: a partition moves kernel workers that must not move, and systemd does not \
         respond on the bus"
    );
    assert!(choice.warning.unwrap().contains("nothing else is kept off"));
}

#[test]
fn auto_says_why() {
    let isolcpus = GateFacts {
        isolcpus_overlap: true,
        ..facts("6.17.2")
    };
    let mut old = facts("6.1.0");
    old.features.remote_partitions = false;
    for (facts, reason) in [
        (facts("6.12.107"), "kernel 6.12.107: no known problem"),
        (
            facts("6.17.2"),
            "kernel 6.17.2: changing the workqueue mask can stall ordered workqueues, so \
             partition type root",
        ),
        (
            facts("6.8.12"),
            "kernel 6.8.12: a partition moves kernel workers that must not move, so no partition",
        ),
        (
            facts("6.12.1"),
            "kernel 6.12.1: changing the workqueue mask can stall ordered workqueues; a \
             partition moves kernel workers that must not move, so no partition",
        ),
        (
            isolcpus,
            "kernel 6.17.2: changing the workqueue mask can stall ordered workqueues; a \
             partition of type root is invalid on cpus in isolcpus=, so no partition",
        ),
        (
            old,
            "kernel 6.1.0: no remote partitions (cpuset.cpus.isolated is missing), so no \
             partition",
        ),
    ] {
        assert_eq!(choose(BackendWish::Auto, &facts).unwrap().reason, reason);
    }
}

#[test]
fn a_wish_is_honoured_where_it_works() {
    for (release, backend) in [
        ("7.3.4", Backend::Isolated),
        ("7.3.4", Backend::Root),
        ("6.17.2", Backend::Root),
        ("6.8.12", Backend::Slices),
        ("7.3.4", Backend::Slices),
        ("6.8.12", Backend::Affinity),
    ] {
        let choice = choose(BackendWish::Only(backend), &facts(release)).unwrap();
        assert_eq!(choice.backend, backend);
        assert_eq!(choice.reason, "as configured");
    }
}

#[test]
fn a_gated_wish_needs_the_override() {
    for (release, backend) in [
        ("6.17.2", Backend::Isolated),
        ("6.8.12", Backend::Isolated),
        ("6.8.12", Backend::Root),
    ] {
        let mut facts = facts(release);
        let refusal = choose(BackendWish::Only(backend), &facts).unwrap_err();
        assert!(refusal.to_string().contains(release), "{refusal}");
        assert!(refusal.help().contains(OVERRIDE), "{}", refusal.help());
        facts.gate_override = true;
        let choice = choose(BackendWish::Only(backend), &facts).unwrap();
        assert_eq!(choice.backend, backend);
        assert!(choice.reason.ends_with("overridden"), "{}", choice.reason);
        assert_eq!(choice.warning, None);
    }
}

#[test]
fn the_override_is_never_silent_with_mlx5() {
    for wish in [BackendWish::Auto, BackendWish::Only(Backend::Isolated)] {
        for (release, warned) in [("6.17.2", true), ("6.12.1", true), ("6.8.12", false)] {
            let facts = GateFacts {
                mlx5_loaded: true,
                gate_override: true,
                ..facts(release)
            };
            let choice = choose(wish, &facts).unwrap();
            assert_eq!(choice.backend, Backend::Isolated);
            assert_eq!(choice.warning.is_some(), warned, "{release}");
        }
    }
}

#[test]
fn what_cannot_work_is_refused_whatever_is_overridden() {
    let base = GateFacts {
        gate_override: true,
        ..facts("7.3.4")
    };
    let mut no_partitions = base;
    no_partitions.features.remote_partitions = false;
    let isolcpus = GateFacts {
        isolcpus_overlap: true,
        ..base
    };
    let mut no_systemd = base;
    no_systemd.features.systemd_bus = false;
    for (backend, facts, fact) in [
        (Backend::Isolated, no_partitions, "no remote partitions"),
        (Backend::Root, no_partitions, "no remote partitions"),
        (Backend::Root, isolcpus, "isolcpus="),
        (Backend::Slices, no_systemd, "systemd does not respond"),
    ] {
        let refusal = choose(BackendWish::Only(backend), &facts).unwrap_err();
        assert!(refusal.to_string().contains(fact), "{refusal}");
        assert!(!refusal.help().contains(OVERRIDE));
    }
}

#[test]
fn unbound_work_is_moved_where_the_kernel_survives_it() {
    use Workqueues::{Auto, Off, On};
    for (wish, release, is_moved) in [
        (Auto, "7.0.0", true),
        (On, "7.0.0", true),
        (Off, "7.0.0", false),
        (Auto, "6.17.2", false),
        (Auto, "6.8.12", false),
    ] {
        let moves = moves_work(wish, Backend::Root, &facts(release));
        assert_eq!(moves, Ok((is_moved, None)), "{wish:?} on {release}");
    }
    let refusal = moves_work(On, Backend::Root, &facts("6.17.2")).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "workqueues = true is refused: kernel 6.17.2: changing the workqueue mask can stall \
         ordered workqueues"
    );
    assert!(refusal.help().contains(OVERRIDE), "{}", refusal.help());
    let (is_moved, warning) = moves_work(On, Backend::Slices, &facts("6.1.0")).unwrap();
    assert!(is_moved && warning.is_some_and(|text| text.contains("rescuers")));
    let alone = moves_work(On, Backend::Affinity, &facts("7.0.0"));
    assert_eq!(alone, Ok((false, None)));
}

#[test]
fn unbound_work_is_never_moved_silently_while_mlx5_is_loaded() {
    let vouched = GateFacts {
        gate_override: true,
        ..facts("6.17.2")
    };
    let mlx5 = GateFacts {
        mlx5_loaded: true,
        ..vouched
    };
    for wish in [Workqueues::Auto, Workqueues::On] {
        assert_eq!(moves_work(wish, Backend::Root, &vouched), Ok((true, None)));
        let (is_moved, warning) = moves_work(wish, Backend::Root, &mlx5).unwrap();
        assert!(is_moved && warning.is_some_and(|text| text.contains("mlx5")));
    }
}

#[test]
fn a_table_that_forbids_to_move_work_gets_no_isolated_partition() {
    let stays = GateFacts {
        work_stays: true,
        ..facts("7.0.0")
    };
    let choice = choose(BackendWish::Auto, &stays).unwrap();
    assert_eq!(choice.backend, Backend::Root, "{}", choice.reason);
}

/// A stop would wait for every probe of a PCI driver, or change the type of a partition for nothing.
#[test]
fn partitions_wait_for_probes_from_the_first_kernel_that_flushes_them() {
    for (release, waits) in [
        ("6.19.13", false),
        ("7.0.0", true),
        ("7.0.1", true),
        ("7.3.4+deb14-amd64", true),
    ] {
        assert_eq!(
            waits_for_probes(release.parse().unwrap()),
            waits,
            "{release}"
        );
    }
}
