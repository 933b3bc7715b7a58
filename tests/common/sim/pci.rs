//! PCI functions that are removed and found again or change their driver, and drivers that take what
//! appears.
//!
//! What is claimed here was measured in the lab on 6.12 and 7.3, and cases 38-rescan and 39-bind show
//! it: a function comes back without driver, override and settings; before 6.19 a driver of the host
//! takes it also while `drivers_autoprobe` is off; binding to vfio-pci lets it be suspended
//! (`power/control`), and leaving that ends it; a driver that lets go is followed by nobody.

use std::collections::BTreeMap;
use std::io;

use super::tree::Node;
use super::{Kernel, Sim, State, errno};

const DEVICES: &str = "/sys/devices/pci0000:00/";
const AUTOPROBE: &str = "/sys/bus/pci/drivers_autoprobe";
const DRIVERS: &str = "/sys/bus/pci/drivers/";
const VFIO: &str = "vfio-pci";

/// What a removed function does at a rescan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comeback {
    /// It is there again after so many.
    After(usize),
    /// It stays away.
    Never,
    /// Another device is there: its id.
    As(String),
}

/// Functions of the host.
#[derive(Debug, Clone)]
pub struct Pci {
    removed: BTreeMap<String, Vec<(String, Node)>>,
    comeback: Comeback,
    /// Driver of the host that is loaded and matches every function.
    driver: Option<String>,
    /// Functions that it has taken.
    pub taken: Vec<String>,
    /// Whether drivers of the host fail when they are given a function.
    pub refuses: bool,
}

impl Default for Pci {
    fn default() -> Self {
        Pci {
            removed: BTreeMap::new(),
            comeback: Comeback::After(1),
            driver: None,
            taken: Vec::new(),
            refuses: false,
        }
    }
}

impl State {
    /// Does what a write to a file of a function or a bus does, if it is one of those.
    pub fn pci_write(&mut self, path: &str, text: &str) -> Option<io::Result<()>> {
        let text = text.trim();
        if let Some(rest) = path.strip_prefix(DRIVERS)
            && let Some((driver, act)) = rest.split_once('/')
        {
            if !self.exists(path) {
                return None;
            }
            return match act {
                "bind" => Some(self.bind(driver, text)),
                "unbind" => Some(self.unbind(driver, text)),
                _ => None,
            };
        }
        if let Some(bus) = path.strip_prefix("/sys/class/pci_bus/") {
            let bus = bus.strip_suffix("/rescan")?.to_owned();
            self.rescan(&bus);
            return Some(Ok(()));
        }
        let (address, name) = path.strip_prefix(DEVICES)?.split_once('/')?;
        if !self.exists(path) {
            return None;
        }
        match name {
            "remove" => self.remove_function(address),
            "driver_override" => {
                let name = if text.is_empty() { "(null)" } else { text };
                self.tree.put(path, &format!("{name}\n"), 0o644);
            }
            _ => return None,
        }
        Some(Ok(()))
    }

    /// Removes a function from the machine, until a rescan.
    pub fn remove_function(&mut self, address: &str) {
        let nodes = self.tree.take_all(&format!("{DEVICES}{address}"));
        let link = format!("/sys/bus/pci/devices/{address}");
        let links = self.tree.take_all(&link);
        let all = nodes.into_iter().chain(links).collect();
        self.pci.removed.insert(address.to_owned(), all);
    }

    fn rescan(&mut self, bus: &str) {
        match &mut self.pci.comeback {
            Comeback::Never => return,
            Comeback::After(n) if *n > 1 => {
                *n -= 1;
                return;
            }
            _ => {}
        }
        let removed = self.pci.removed.keys();
        let of_bus = removed.filter(|address| address.starts_with(bus));
        for address in of_bus.cloned().collect::<Vec<_>>() {
            let nodes = self.pci.removed.remove(&address).unwrap_or_default();
            self.tree.put_all(nodes);
            self.appear(&address);
        }
    }

    /// A function is new to the kernel.
    fn appear(&mut self, address: &str) {
        let dir = format!("{DEVICES}{address}");
        self.tree.remove_all(&format!("{dir}/driver"));
        for (name, text) in SETTINGS {
            self.tree.put(&format!("{dir}/{name}"), text, 0o644);
        }
        if let Comeback::As(id) = &self.pci.comeback {
            let text = format!("0x{id}\n");
            self.tree.put(&format!("{dir}/device"), &text, 0o444);
        }
        if self.kernel < Kernel(6, 19) || self.is_probing() {
            self.take(address);
        }
    }

    fn is_probing(&self) -> bool {
        self.read(AUTOPROBE).is_ok_and(|text| text == "1\n")
    }

    /// The driver of the host takes a function that nobody has and nobody keeps from it.
    fn take(&mut self, address: &str) {
        let dir = format!("{DEVICES}{address}");
        let kept = self.read(&format!("{dir}/driver_override"));
        let is_free = self.tree.link(&format!("{dir}/driver")).is_err();
        if let Some(driver) = self.pci.driver.clone()
            && is_free
            && kept.is_ok_and(|text| text == "(null)\n")
        {
            let driver = format!("../../../bus/pci/drivers/{driver}");
            self.tree.put_link(&format!("{dir}/driver"), &driver);
            self.pci.taken.push(address.to_owned());
        }
    }

    /// A driver is given a function: one that somebody has, or that is kept from it, it does not take.
    /// Which models a driver of the host knows is nothing that is asked here.
    fn bind(&mut self, driver: &str, address: &str) -> io::Result<()> {
        let dir = format!("{DEVICES}{address}");
        let kept = self.read(&format!("{dir}/driver_override"))?;
        if self.tree.link(&format!("{dir}/driver")).is_ok() {
            return Err(errno(libc::EBUSY));
        }
        let is_kept = kept.trim() != driver && (driver == VFIO || kept != "(null)\n");
        if is_kept {
            return Err(errno(libc::ENODEV));
        }
        if driver != VFIO && self.is_group_of_vm(address) {
            return Err(errno(libc::EBUSY));
        }
        if driver != VFIO && self.pci.refuses {
            return Err(errno(libc::EIO));
        }
        let link = format!("../../../bus/pci/drivers/{driver}");
        self.tree.put_link(&format!("{dir}/driver"), &link);
        if driver == VFIO {
            self.tree
                .put(&format!("{dir}/power/control"), "auto\n", 0o644);
        }
        Ok(())
    }

    /// Tells whether a VM has a function of the same IOMMU group.
    fn is_group_of_vm(&self, address: &str) -> bool {
        let group = |address: &str| self.tree.link(&format!("{DEVICES}{address}/iommu_group"));
        let Ok(own) = group(address) else {
            return false;
        };
        let names = self.list("/sys/bus/pci/devices").unwrap_or_default();
        let mates = names
            .iter()
            .filter(|name| group(name).is_ok_and(|group| group == own));
        let qemus = self.vms.values().filter_map(|vm| self.tasks.get(vm.pid));
        let words: Vec<&String> = qemus.flat_map(|qemu| &qemu.cmdline).collect();
        let mut hosts = mates.map(|mate| format!("host={mate},"));
        hosts.any(|host| words.iter().any(|word| word.contains(&host)))
    }

    /// A driver lets go of a function; nobody else is asked whether it would like to have it.
    fn unbind(&mut self, driver: &str, address: &str) -> io::Result<()> {
        let dir = format!("{DEVICES}{address}");
        let link = self.tree.link(&format!("{dir}/driver"));
        if !link.is_ok_and(|link| link.ends_with(&format!("/{driver}"))) {
            return Err(errno(libc::ENODEV));
        }
        self.tree.remove_all(&format!("{dir}/driver"));
        if driver == VFIO {
            self.tree
                .put(&format!("{dir}/power/control"), "on\n", 0o644);
        }
        Ok(())
    }
}

/// Files that begin anew, with what they begin with.
const SETTINGS: [(&str, &str); 4] = [
    ("driver_override", "(null)\n"),
    ("power/control", "on\n"),
    ("d3cold_allowed", "1\n"),
    ("reset_method", "pm bus\n"),
];

/// Returns where the link to the IOMMU group of a function goes that has one of its own.
pub fn group_of(address: &str) -> String {
    let digits = address.chars().filter(char::is_ascii_hexdigit);
    let number = u64::from_str_radix(&digits.collect::<String>(), 16).expect("an address");
    format!("../../../kernel/iommu_groups/{}", 100 + number)
}

impl Sim {
    /// Puts a function without driver that can be removed, and the files of its bus.
    pub fn put_removable(&self, address: &str, model: &str) {
        let dir = format!("{DEVICES}{address}");
        let (vendor, device) = model.split_once(':').expect("a model");
        let bus = address.rsplit_once(':').expect("an address").0;
        let mut state = self.state();
        let tree = &mut state.tree;
        for (name, text) in [
            ("vendor", format!("0x{vendor}\n")),
            ("device", format!("0x{device}\n")),
            ("class", "0x030000\n".to_owned()),
            ("numa_node", "-1\n".to_owned()),
            ("enable", "0\n".to_owned()),
            (
                "modalias",
                format!("pci:v0000{vendor}d0000{device}sv0sd0bc03sc00i00\n"),
            ),
        ] {
            tree.put(&format!("{dir}/{name}"), &text, 0o444);
        }
        for (name, text) in SETTINGS {
            tree.put(&format!("{dir}/{name}"), text, 0o644);
        }
        tree.put_link(&format!("{dir}/iommu_group"), &group_of(address));
        tree.put_command(&format!("{dir}/remove"));
        tree.put_command(&format!("{dir}/reset"));
        tree.put_command(&format!("/sys/class/pci_bus/{bus}/rescan"));
        tree.put_choice(AUTOPROBE, "1", &["0", "1"]);
        let target = format!("../../../devices/pci0000:00/{address}");
        tree.put_link(&format!("/sys/bus/pci/devices/{address}"), &target);
        drop(state);
        self.put_driver(VFIO);
    }

    /// Puts a driver that has been loaded.
    pub fn put_driver(&self, name: &str) {
        let tree = &mut self.state().tree;
        for file in ["bind", "unbind"] {
            tree.put_command(&format!("{DRIVERS}{name}/{file}"));
        }
    }

    /// Binds a function to a driver that is loaded.
    pub fn give_to(&self, address: &str, driver: &str) {
        self.put_driver(driver);
        let link = format!("../../../bus/pci/drivers/{driver}");
        let path = format!("{DEVICES}{address}/driver");
        self.state().tree.put_link(&path, &link);
    }

    /// Decides what removed functions do at a rescan.
    pub fn comeback(&self, comeback: Comeback) {
        self.state().pci.comeback = comeback;
    }

    /// Loads a driver that matches every function.
    pub fn load_driver(&self, name: &str) {
        let mut state = self.state();
        state.pci.driver = Some(name.to_owned());
        if state.is_probing() {
            let names = state.list("/sys/bus/pci/devices").unwrap_or_default();
            names.iter().for_each(|address| state.take(address));
        }
    }
}
