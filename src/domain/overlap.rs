//! CPUs that the tables of two VMs name: whichever starts second is refused, unless one makes room.

use std::fmt;

use serde::Serialize;

use super::cpuset::CpuSet;
use super::vm::Vmid;

/// What a table names, and whom it has make room.
#[derive(Debug, Clone, Copy)]
pub struct Named<'t> {
    /// Whose table it is.
    pub vmid: Vmid,
    /// Every CPU that it owns.
    pub cpus: &'t CpuSet,
    /// VMs that a start shuts down first (`yield.stop`).
    pub stops: &'t [Vmid],
}

/// CPUs that two tables name; prints as one line without a dot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Overlap {
    /// The VMs; they cannot run at the same time.
    pub vmids: [Vmid; 2],
    /// The CPUs.
    pub cpus: CpuSet,
    /// Which of them is shut down when the other one starts; nothing where neither table says so.
    pub yields: Option<Vmid>,
}

impl Overlap {
    /// Returns what two tables both name.
    pub fn of(one: Named<'_>, two: Named<'_>) -> Option<Self> {
        // Nearly all are, of the pairs of many VMs.
        if one.cpus.is_disjoint(two.cpus) {
            return None;
        }
        let stops = |stopping: Named<'_>, other: Vmid| stopping.stops.contains(&other);
        let yields = match (stops(one, two.vmid), stops(two, one.vmid)) {
            (true, _) => Some(two.vmid),
            (false, true) => Some(one.vmid),
            (false, false) => None,
        };
        let (first, second) = match one.vmid < two.vmid {
            true => (one.vmid, two.vmid),
            false => (two.vmid, one.vmid),
        };
        Some(Overlap {
            vmids: [first, second],
            cpus: one.cpus.intersection(two.cpus),
            yields,
        })
    }

    /// Returns the VM that is not this one.
    pub fn other(&self, vmid: Vmid) -> Vmid {
        let [one, two] = self.vmids;
        if one == vmid { two } else { one }
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, two] = self.vmids;
        let cpus = self.cpus.in_words();
        write!(f, "vm {one} and vm {two} both name {cpus}: ")?;
        match self.yields {
            None => write!(f, "they cannot own them at the same time"),
            Some(yields) => {
                let starts = self.other(yields);
                write!(
                    f,
                    "a start of vm {starts} shuts vm {yields} down first (yield.stop)"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_a_table_stops_makes_room_in_whatever_order_they_are_named() {
        let [one, two] = ["100", "101"].map(|id| id.parse::<Vmid>().unwrap());
        let [cpus, others, far] = ["2-5", "4-7", "8"].map(|list| list.parse::<CpuSet>().unwrap());
        let named = |vmid, cpus, stops| Named { vmid, cpus, stops };
        let (stops_one, stops_two) = ([one], [two]);
        for (stops_of_one, stops_of_two, yields) in [
            (&[][..], &[][..], None),
            (&stops_two, &[], Some(two)),
            (&[], &stops_one, Some(one)),
        ] {
            let first = named(one, &cpus, stops_of_one);
            let second = named(two, &others, stops_of_two);
            let expected = Overlap {
                vmids: [one, two],
                cpus: "4-5".parse().unwrap(),
                yields,
            };
            assert_eq!(Overlap::of(first, second), Some(expected.clone()));
            assert_eq!(Overlap::of(second, first), Some(expected));
        }
        let found = Overlap::of(named(one, &cpus, &[]), named(two, &far, &[]));
        assert_eq!(found, None);
    }

    #[test]
    fn the_other_one_is_not_the_one_that_is_asked_about() {
        let vmids = ["100", "101"].map(|id| id.parse::<Vmid>().unwrap());
        let overlap = Overlap {
            vmids,
            cpus: CpuSet::new(),
            yields: None,
        };
        assert_eq!(vmids.map(|vmid| overlap.other(vmid)), [vmids[1], vmids[0]]);
    }
}
