//! Which of the alternatives PVE took: by QEMU's command line, or by PVE's list of reservations.

use std::collections::BTreeMap;
use std::time::Duration;

use super::is_address;
use crate::domain::vm::Vmid;

/// Returns the functions that a QEMU has, by its command line: `vfio-pci,host=0000:01:00.0,...`.
/// The arguments end with a zero byte each.
pub fn of_command_line(command: &str) -> Vec<String> {
    let devices = command.split('\0').filter(|word| {
        let driver = word.split(',').next().unwrap_or_default();
        driver.starts_with("vfio-pci")
    });
    let hosts = devices.filter_map(|word| {
        let mut options = word.split(',');
        options.find_map(|option| option.strip_prefix("host="))
    });
    let full = hosts.map(|host| match host.matches(':').count() {
        1 => format!("0000:{host}"),
        _ => host.to_owned(),
    });
    full.filter(|address| is_address(address)).collect()
}

/// Reservation of a function for a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// For which VM.
    pub vmid: Vmid,
    /// Until when.
    pub until: Until,
}

/// When a reservation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// With this process.
    Process(i32),
    /// At this time since 1970, unless the VM runs by then.
    Time(Duration),
}

/// Reads PVE's list of reservations (`/var/run/qemu-server/pci-id-reservations`), by function: a line
/// is `<address> <vmid> time:<seconds>` or `<address> <vmid> pid:<pid>`.
pub fn reservations(text: &str) -> BTreeMap<String, Reservation> {
    text.lines().filter_map(reservation).collect()
}

fn reservation(line: &str) -> Option<(String, Reservation)> {
    let mut words = line.split_whitespace();
    let (address, vmid, until) = (words.next()?, words.next()?, words.next()?);
    let until = match until.split_once(':')? {
        ("pid", pid) => Until::Process(pid.parse().ok()?),
        ("time", time) => Until::Time(Duration::from_secs(time.parse().ok()?)),
        _ => return None,
    };
    let vmid = vmid.parse().ok()?;
    Some((address.to_owned(), Reservation { vmid, until }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_tells_its_functions() {
        let command = "/usr/bin/kvm -id 100 -device vfio-pci,host=0000:f0:43.0,id=hostpci0.0 \
                       -device vfio-pci,host=01:00.1,id=hostpci1 -device \
                       vfio-pci,sysfsdev=/sys/bus/mdev/devices/00000001-0000 -device \
                       vfio-pci-nohotplug,host=0000:02:00.0 -name host=0000:09:00.0 ";
        let command = command.replace(' ', "\0");
        let expected = ["0000:f0:43.0", "0000:01:00.1", "0000:02:00.0"];
        assert_eq!(of_command_line(&command), expected);
    }

    #[test]
    fn reservations_are_those_of_pve() {
        let text = "0000:01:00.0 100 time:1700000000\n0000:02:00.0 101 pid:4711\nodd line\n\
                    0000:03:00.0 102 pid:x\n0000:04:00.0 9 pid:1\n";
        let found = reservations(text);
        assert_eq!(found.len(), 2);
        let time = Until::Time(Duration::from_secs(1_700_000_000));
        assert_eq!(found["0000:01:00.0"].until, time);
        assert_eq!(found["0000:02:00.0"].until, Until::Process(4711));
        assert_eq!(found["0000:02:00.0"].vmid.to_string(), "101");
    }
}
