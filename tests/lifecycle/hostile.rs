//! Files of the host, of PVE and of the admin may say anything, from any read on: the program does its work or says
//! why it does not, and is rid of the VM when they are well again.

use std::rc::Rc;

use pin_hook::lifecycle::engine::account::Exit;
use pin_hook::lifecycle::engine::journal::read_state;
use pin_hook::lifecycle::start::phase::Phase;
use proptest::prelude::*;

use super::world::{CONF, World, id};
use crate::common::garble::{Damage, config, damage};
use crate::common::sim::VmSpec;
use crate::common::sim::garble;

/// All that makes a phase read more.
const TABLE: &str = "cpus = \"2-3\"\npin.scheduler = \"fifo:1\"\n[isolate]\nkthreads = true\nirqs = true\n\
                     workqueues = \"auto\"\nwatchdog = true\n[power]\ngovernor = \"performance\"\n\
                     max-idle-latency = \"2us\"\n[memory]\nnodes = \"auto\"\n[host]\nksm = \"stop\"\n";

/// A life of a VM reads some hundred times; most of what is told of it is read at its beginning.
fn moment() -> impl Strategy<Value = usize> {
    prop_oneof![1..120_usize, 1..1500_usize]
}

fn due(damages: Vec<(usize, Damage)>) -> Vec<(usize, garble::Damage)> {
    let due = damages.into_iter().map(|(n, damage)| {
        let done: garble::Damage = Rc::new(move |text| damage.done_to(text));
        (n, done)
    });
    due.collect()
}

proptest! {
    #![proptest_config(config(4))]

    #[test]
    fn whatever_files_say_the_program_answers_and_is_rid_of_it_afterwards(
        damages in proptest::collection::vec((moment(), damage()), 1..4),
        slices in any::<bool>(),
    ) {
        let world = World::with_vm().vm(101, CONF, &TABLE.replace("2-3", "4-5"));
        let backend = if slices { "[isolate]\nbackend = \"slices\"\n" } else { "[isolate]\n" };
        world.sim.table(100, &TABLE.replace("[isolate]\n", backend));
        world.start(101);
        world.sim.garble(due(damages));
        let is_admitted = world.phase(Phase::PreStart, 100).exit == Exit::Done;
        if is_admitted {
            world.launch(100, &VmSpec::with_vcpus(2));
            world.phase(Phase::PostStart, 100);
        }
        world.end_worker();
        world.reconcile();
        if is_admitted {
            world.end_qemu(100);
        }
        world.phase(Phase::PostStop, 100);
        world.end_worker();
        world.sim.mend();
        // A value that the host never had may have been taken for its own: it is tried again and again, and told.
        let _ = world.reconcile_until_quiet();
        let state = read_state(&*world.host.files).unwrap();
        prop_assert!(!state.claims.contains_key(&id(100)), "{state:#?}");
        world.end_qemu(101);
        world.phase(Phase::PostStop, 101);
        let _ = world.reconcile_until_quiet();
        let state = read_state(&*world.host.files).unwrap();
        prop_assert!(state.claims.is_empty(), "{state:#?}");
    }
}
