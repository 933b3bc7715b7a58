//! Lives of VMs on the simulated kernel: what they own while they run, that the host is as before
//! when they are gone, and that a death at any write changes neither.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

#[path = "lifecycle/applied.rs"]
mod applied;
#[path = "lifecycle/auto.rs"]
mod auto;
#[path = "lifecycle/backups.rs"]
mod backups;
#[path = "lifecycle/between.rs"]
mod between;
#[path = "lifecycle/bindings.rs"]
mod bindings;
#[path = "lifecycle/births.rs"]
mod births;
#[path = "lifecycle/claims_made.rs"]
mod claims_made;
#[path = "lifecycle/containers.rs"]
mod containers;
#[path = "lifecycle/costs.rs"]
mod costs;
#[path = "lifecycle/debts.rs"]
mod debts;
#[path = "lifecycle/devices.rs"]
mod devices;
#[path = "lifecycle/drift.rs"]
mod drift;
#[path = "lifecycle/ends.rs"]
mod ends;
#[path = "lifecycle/failures.rs"]
mod failures;
#[path = "lifecycle/frequencies.rs"]
mod frequencies;
#[path = "lifecycle/full.rs"]
mod full;
#[path = "lifecycle/hostile.rs"]
mod hostile;
#[path = "lifecycle/hotplugs.rs"]
mod hotplugs;
#[path = "lifecycle/journal.rs"]
mod journal;
#[path = "lifecycle/late.rs"]
mod late;
#[path = "lifecycle/lost.rs"]
mod lost;
#[path = "lifecycle/meanwhile.rs"]
mod meanwhile;
#[path = "lifecycle/measured.rs"]
mod measured;
#[path = "lifecycle/memory.rs"]
mod memory;
#[path = "lifecycle/notify.rs"]
mod notify;
#[path = "lifecycle/orders.rs"]
mod orders;
#[path = "lifecycle/others.rs"]
mod others;
#[path = "lifecycle/pidfile.rs"]
mod pidfile;
#[path = "lifecycle/probes.rs"]
mod probes;
#[path = "lifecycle/refusals.rs"]
mod refusals;
#[path = "lifecycle/refused_targets.rs"]
mod refused_targets;
#[path = "lifecycle/rescan.rs"]
mod rescan;
#[path = "lifecycle/rows.rs"]
mod rows;
#[path = "lifecycle/said.rs"]
mod said;
#[path = "lifecycle/scenario.rs"]
mod scenario;
#[path = "lifecycle/schedules.rs"]
mod schedules;
#[path = "lifecycle/scrub.rs"]
mod scrub;
#[path = "lifecycle/settings.rs"]
mod settings;
#[path = "lifecycle/slices.rs"]
mod slices;
#[path = "lifecycle/starts.rs"]
mod starts;
#[path = "lifecycle/threads.rs"]
mod threads;
#[path = "lifecycle/tours.rs"]
mod tours;
#[path = "lifecycle/work.rs"]
mod work;
#[path = "lifecycle/world.rs"]
mod world;
#[path = "lifecycle/yields.rs"]
mod yields;
