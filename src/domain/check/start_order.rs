//! The order in which PVE starts guests at boot, where one of them has the disks of others.

use std::cmp::Ordering;
use std::fmt;

use super::host_facts::{AtBoot, HostFacts};
use super::rule::Severity::Notice;
use super::rule::{Check, Fault, Judge, Verdict};
use crate::domain::startup::Startup;
use crate::domain::words::few;

/// Seconds that a server of storage is given before the next guest starts.
const USUAL_WAIT: u32 = 60;

pub(super) const CHECKS: &[Check] = &[Check {
    id: "start-order",
    required: "a vm that may serve storage starts before the guests with disks in the network",
    why: "PVE starts a guest only if its storages answer. At boot it starts guests by their order, those \
          without one last, and by their ids where that is equal. A VM with a storage controller of the host \
          often serves the storage of the others; the host cannot see whether it does.",
    fix: "qm set VMID --startup order=1,up=60 for the vm that serves the storage",
    severity: Notice,
    judge: Judge::Host(start_order),
}];

impl AtBoot {
    fn starts_before(&self, other: &AtBoot) -> bool {
        let order = self.startup.compare(&other.startup);
        order.then(self.vmid.cmp(&other.vmid)) == Ordering::Less
    }

    fn command(&self, startup: Startup) -> String {
        let program = if self.is_container { "pct" } else { "qm" };
        format!("{program} set {} --startup {startup}", self.vmid)
    }
}

impl fmt::Display for AtBoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_container { "container" } else { "vm" };
        write!(f, "{kind} {}", self.vmid)
    }
}

/// Finds nothing as soon as one VM that may be the server starts first: which one it is cannot be seen.
fn start_order(host: &HostFacts) -> Verdict {
    let all = host.at_boot.iter();
    let servers: Vec<&AtBoot> = all.filter(|one| one.controller.is_some()).collect();
    let Some(server) = servers.first() else {
        return Verdict::passed("no vm that starts at boot has a storage controller of the host");
    };
    let is_early = |one: &&AtBoot| servers.iter().all(|server| one.starts_before(server));
    let users = host.at_boot.iter();
    let users = users.filter(|one| one.controller.is_none() && !one.networked.is_empty());
    let early: Vec<&AtBoot> = users.filter(is_early).collect();
    let Some(first) = early.first() else {
        return Verdict::passed(
            "the vm that may serve storage starts first, or no guest needs one",
        );
    };
    let names: Vec<String> = early.iter().map(ToString::to_string).collect();
    let (start, have) = match early.len() {
        1 => ("starts", "has"),
        _ => ("start", "have"),
    };
    let (controller, storage) = (server.controller.as_deref(), &first.networked[0]);
    let found = format!(
        "{} {start} before {server}, which has storage controller {}, and {have} disks on {storage}",
        few(&names),
        controller.unwrap_or_default()
    );
    Fault::new(found).fixed_by(remedy(server, &early)).into()
}

/// Returns what starts the server first; what else its config says of its start stays.
fn remedy(server: &AtBoot, early: &[&AtBoot]) -> String {
    let orders = early.iter().filter_map(|one| one.startup.order);
    let lowest = orders.min().unwrap_or(u32::MAX);
    let first = Startup {
        order: Some(lowest.saturating_sub(1).min(1)),
        up: server.startup.up.or(Some(USUAL_WAIT)),
        ..server.startup
    };
    let mut commands = vec![server.command(first)];
    // Nothing comes before 0.
    let same = early.iter().filter(|one| one.startup.order == Some(0));
    commands.extend(same.map(|one| {
        let order = Some(1);
        one.command(Startup {
            order,
            ..one.startup
        })
    }));
    commands.join(" && ")
}
