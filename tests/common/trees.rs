//! Devices of synthetic hosts: `tests/pci/<name>.tree` says in few words what sysfs has.
//!
//! - `function ADDRESS VENDOR:DEVICE CLASS [under=ADDRESS] [KEY=VALUE ...]`: a PCI function, behind a
//!   bridge; `driver`, `group`, `node`, `physfn`, `virtfnN` are links or files as in sysfs, every
//!   other key is a file
//! - `disk NAME MAJOR:MINOR under=ADDRESS`, `part NAME MAJOR:MINOR of=DISK`: block devices
//! - `stack NAME MAJOR:MINOR on=DEVICE,... [dm=NAME]`: one that is made of others
//! - `net NAME under=ADDRESS [port=NAME] [master=NAME]`: a network device
//! - `usb PORT VENDOR:PRODUCT under=ADDRESS`
//! - `file PATH CONTENT`, `link PATH TARGET`: anything else (`\n` stands for a new line)
#![allow(
    dead_code,
    reason = "each test program that includes this file uses a part"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a tree that cannot be read is a failed test"
)]

use std::collections::BTreeMap;
use std::fs;

/// Files of a host: path and content; that of a link is `-> ` and its target.
pub type Entries = BTreeMap<String, String>;

/// Adds the devices of a tree to a host.
pub fn add(entries: &mut Entries, name: &str) {
    let path = format!("{}/tests/pci/{name}.tree", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap_or_else(|_| panic!("no {path}"));
    let mut tree = Tree {
        entries,
        dirs: BTreeMap::new(),
    };
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        tree.add(line);
    }
}

struct Tree<'e> {
    entries: &'e mut Entries,
    /// Directory of a function below `/sys/devices`.
    dirs: BTreeMap<String, String>,
}

impl Tree<'_> {
    fn add(&mut self, line: &str) {
        let (kind, rest) = line.split_once(' ').unwrap();
        let words: Vec<&str> = rest.split_whitespace().collect();
        let options: Vec<(&str, &str)> = words
            .iter()
            .filter_map(|word| word.split_once('='))
            .collect();
        let option = |key: &str| {
            let mut found = options.iter().filter(|(name, _)| *name == key);
            found.next().map(|(_, value)| *value)
        };
        match kind {
            "function" => self.function(&words, &options),
            "disk" => {
                let above = self.dirs[option("under").unwrap()].clone();
                self.block(words[0], words[1], &format!("{above}/block/{}", words[0]));
            }
            "part" => {
                let disk = option("of").unwrap();
                let dir = self.dirs[disk].clone();
                self.block(words[0], words[1], &format!("{dir}/{}", words[0]));
                self.put(&format!("/sys/devices/{dir}/{}/partition", words[0]), "1");
            }
            "stack" => {
                self.block(words[0], words[1], &format!("virtual/block/{}", words[0]));
                let dir = format!("/sys/devices/{}", self.dirs[words[0]]);
                if let Some(dm) = option("dm") {
                    self.put(&format!("{dir}/dm/name"), dm);
                }
                for below in option("on").unwrap().split(',') {
                    let holder = format!("{}/holders/{}", self.dirs[below], words[0]);
                    self.put(&format!("/sys/devices/{holder}"), "");
                }
            }
            "net" => self.net(words[0], option("under"), option("port"), option("master")),
            "usb" => self.usb(words[0], words[1], option("under").unwrap()),
            "file" => {
                let (path, content) = rest.split_once(' ').unwrap_or((rest, ""));
                self.put(path, &content.replace("\\n", "\n").replace("\\0", "\0"));
            }
            "link" => self.link(words[0], words[1]),
            _ => panic!("{line}"),
        }
    }

    fn function(&mut self, words: &[&str], options: &[(&str, &str)]) {
        let [address, model, class, ..] = words[..] else {
            panic!("{words:?}")
        };
        let above = options.iter().find(|(key, _)| *key == "under");
        let above = above.map(|(_, address)| self.dirs[*address].clone());
        let bus = address.rsplit_once(':').unwrap().0;
        let dir = format!("{}/{address}", above.unwrap_or_else(|| format!("pci{bus}")));
        self.dirs.insert(address.to_owned(), dir.clone());
        self.link(
            &format!("/sys/bus/pci/devices/{address}"),
            &format!("../../../devices/{dir}"),
        );
        let dir = format!("/sys/devices/{dir}");
        let (vendor, device) = model.split_once(':').unwrap();
        self.put(&format!("{dir}/vendor"), &format!("0x{vendor}"));
        self.put(&format!("{dir}/device"), &format!("0x{device}"));
        self.put(&format!("{dir}/subsystem_vendor"), &format!("0x{vendor}"));
        self.put(&format!("{dir}/subsystem_device"), "0x0001");
        self.put(&format!("{dir}/class"), &format!("0x{class}"));
        let is_written = |key: &str| options.iter().any(|(name, _)| *name == key);
        if !is_written("node") {
            self.put(&format!("{dir}/numa_node"), "-1");
        }
        for (key, value) in options.iter().filter(|(key, _)| *key != "under") {
            match *key {
                "driver" => self.link(&format!("{dir}/driver"), &format!("drivers/{value}")),
                "group" => self.link(&format!("{dir}/iommu_group"), &format!("groups/{value}")),
                "node" => self.put(&format!("{dir}/numa_node"), value),
                key if key == "physfn" || key.starts_with("virtfn") => {
                    self.link(&format!("{dir}/{key}"), &format!("../{value}"));
                }
                key => self.put(&format!("{dir}/{key}"), &value.replace(',', " ")),
            }
        }
    }

    fn block(&mut self, name: &str, number: &str, dir: &str) {
        self.dirs.insert(name.to_owned(), dir.to_owned());
        self.link(
            &format!("/sys/class/block/{name}"),
            &format!("../../devices/{dir}"),
        );
        self.put(&format!("/sys/devices/{dir}/dev"), number);
    }

    fn net(&mut self, name: &str, under: Option<&str>, port: Option<&str>, master: Option<&str>) {
        let above = under.map_or("virtual".to_owned(), |address| self.dirs[address].clone());
        let dir = format!("{above}/net/{name}");
        self.link(
            &format!("/sys/class/net/{name}"),
            &format!("../../devices/{dir}"),
        );
        self.put(&format!("/sys/devices/{dir}/operstate"), "up");
        if let Some(port) = port {
            self.put(&format!("/sys/devices/{dir}/phys_port_name"), port);
        }
        if let Some(master) = master {
            let target = format!("/virtual/net/{master}");
            self.link(&format!("/sys/devices/{dir}/master"), &target);
            self.link(&format!("/sys/devices/{dir}/upper_{master}"), &target);
        }
    }

    fn usb(&mut self, port: &str, id: &str, under: &str) {
        let dir = format!("{}/usb1/{port}", self.dirs[under]);
        self.link(
            &format!("/sys/bus/usb/devices/{port}"),
            &format!("../../../devices/{dir}"),
        );
        let (vendor, product) = id.split_once(':').unwrap();
        self.put(&format!("/sys/devices/{dir}/idVendor"), vendor);
        self.put(&format!("/sys/devices/{dir}/idProduct"), product);
    }

    fn put(&mut self, path: &str, content: &str) {
        self.entries.insert(path.to_owned(), format!("{content}\n"));
    }

    fn link(&mut self, path: &str, target: &str) {
        self.entries.insert(path.to_owned(), format!("-> {target}"));
    }
}
