//! `report`: one page with everything, as Markdown and as HTML.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Node, settled};

/// VM 100 owns CPUs, 101 has a table and does not run, 102 one that is wrong.
pub fn busy() -> Node {
    let node = settled();
    let config = "name: build\ncores: 4\ncpu: x86-64-v3\nhookscript: local:snippets/pin-hook\n";
    node.put("/etc/pve/qemu-server/101.conf", config);
    let table = "# The build machine: half of the first CCD.\ncpus = \"2-3,14-15\"\n";
    node.put("/etc/pin-hook/101.toml", table);
    node.put("/etc/pve/qemu-server/102.conf", "name: nas\ncores: 2\n");
    node.put(
        "/etc/pin-hook/102.toml",
        "cpus = \"4-5\"\ncolour = \"<b>\"\n",
    );
    let packages = [
        ("pve-manager", "9.1.2"),
        ("pve-qemu-kvm", "10.1.2-4"),
        ("systemd", "257.9-1"),
    ];
    let stanza = |(name, version)| {
        format!("Package: {name}\nStatus: install ok installed\nVersion: {version}\n\n")
    };
    node.put("/var/lib/dpkg/status", &packages.map(stanza).concat());
    for name in ["nothing", "pin-hook"] {
        let path = format!("{}/tests/trace/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let measurement = fs::read_to_string(path).unwrap();
        let place = format!("/var/lib/pin-hook/measured/{name}.json");
        node.put(&place, &measurement.replace("\"vm100\"", "\"vr\""));
    }
    // Somebody has changed a value since.
    node.put("/proc/irq/24/smp_affinity_list", "0-23\n");
    node
}

#[track_caller]
fn check(name: &str, text: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/show");
    let expected = folder.join(name);
    if crate::goldens::update() {
        fs::write(&expected, text).unwrap();
    }
    assert_eq!(fs::read_to_string(&expected).unwrap_or_default(), text);
}

fn page(node: &Node, words: &[&str]) -> String {
    let file = node.dir.path().join("page.html");
    let path = file.to_str().unwrap();
    let (said, status) = node.shown(&[&["report", "--html", path], words].concat());
    assert_eq!((said.as_str(), status), ("", 0));
    let page = fs::read_to_string(&file).unwrap();
    fs::remove_file(file).unwrap();
    page
}

#[test]
fn a_report_is_printed_as_markdown() {
    let (text, status) = busy().shown(&["report"]);
    assert_eq!(status, 0);
    check("report.md", &text);
}

#[test]
fn a_report_is_a_page_of_its_own() {
    let node = busy();
    let html = page(&node, &[]);
    check("report.html", &html);
    check_form(&html);
    for outside in [
        "http:", "https:", "//", "url(", "@import", "<script", "<link", "<img", "src=",
    ] {
        let found = html.matches(outside).count();
        // The name of the format is an address that nobody asks.
        let is_name = outside == "http:" || outside == "//";
        let pictures = html.matches("<svg ").count();
        assert_eq!(found, usize::from(is_name) * pictures, "{outside}");
    }
    assert!(html.contains("colour = &quot;&lt;b&gt;&quot;"));
}

#[test]
fn names_are_left_out_unless_they_are_asked_for() {
    let node = busy();
    let is_named =
        |text: &str| ["build", "(vr)", "synthetic-5900x"].map(|name| text.contains(name));
    let (text, _) = node.shown(&["report"]);
    // The comment in the table is the operator's own.
    let text = text.replace("The build machine", "");
    assert_eq!(is_named(&text), [false; 3], "{text}");
    let (text, _) = node.shown(&["report", "--names"]);
    assert!(
        text.contains("vm 101 (build)") && text.contains("vm 100 (vr)"),
        "{text}"
    );
}

/// The tables of a page are those of the plan.
#[test]
fn a_report_says_of_threads_and_devices_what_a_plan_says() {
    let node = busy();
    let config = "cores: 4\nvcpus: 2\nhostpci0: mapping=gpu\nscsihw: virtio-scsi-single\n\
                  scsi0: local:101/a.raw,iothread=1\nhookscript: local:snippets/pin-hook\n";
    node.put("/etc/pve/qemu-server/101.conf", config);
    let table =
        "cpus = \"2-3,14-15\"\n\n[pin.iothreads]\n\"*\" = \"4\"\n\n[pin.vhost]\nnet0 = \"5\"\n";
    node.put("/etc/pin-hook/101.toml", table);
    let alternatives = [1, 2].map(|n| {
        let address = format!("0000:0{n}:00.0");
        let device = format!("/sys/bus/pci/devices/{address}");
        node.put(&format!("{device}/vendor"), "0x10de\n");
        node.put(&format!("{device}/device"), "0x2204\n");
        node.put(&format!("{device}/class"), "0x030000\n");
        let group = node.dir.path().join(&device[1..]).join("iommu_group");
        symlink(format!("../../../../kernel/iommu_groups/{n}"), group).unwrap();
        format!("\tmap id=10de:2204,iommugroup={n},node=synthetic-5900x,path={address}\n")
    });
    let mapping = format!("gpu\n{}", alternatives.concat());
    node.put("/etc/pve/mapping/pci.cfg", &mapping);
    let (plan, _) = node.shown(&["plan", "101"]);
    let rows = plan.lines().filter(|line| {
        let marks = [
            "when plugged in",
            "all others",
            "(the vm has none)",
            "not taken",
        ];
        marks.iter().any(|mark| line.contains(mark))
    });
    let rows: Vec<&str> = rows.collect();
    assert_eq!(rows.len(), 5, "{plan}");
    let (report, _) = node.shown(&["report", "--names"]);
    for row in rows {
        assert!(report.contains(&format!("{row}\n")), "{row}: {report}");
    }
}

/// The last four are shown, in the order in which they were measured; those of other VMs are not.
#[test]
fn a_report_has_the_measurements_of_each_vm() {
    let node = busy();
    let path = format!("{}/tests/trace/nothing.json", env!("CARGO_MANIFEST_DIR"));
    let one = fs::read_to_string(path).unwrap();
    let keep = |name: &str, at: u64, vmid: u32| {
        let text = one.replace("\"at\":1796000401", &format!("\"at\":{at}"));
        let text = text.replace("\"vmid\":100", &format!("\"vmid\":{vmid}"));
        node.put(&format!("/var/lib/pin-hook/measured/{name}.json"), &text);
    };
    keep("earliest", 1, 100);
    keep("z-third", 1_796_000_402, 100);
    keep("latest", 1_796_000_999, 100);
    keep("of-another", 1_796_000_999, 101);
    node.put("/var/lib/pin-hook/measured/old.json", "{\"cpus\":1}");
    let (text, status) = node.shown(&["report"]);
    assert_eq!(status, 0);
    let heads = text.lines().filter(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words == ["nothing", "z-third", "pin-hook", "latest"] || words == ["of-another"]
    });
    assert_eq!(heads.count(), 2, "{text}");
    assert!(!text.contains("earliest"), "{text}");
    assert!(text.contains("measurement old, which"), "{text}");
}

#[test]
fn what_cannot_be_shown_is_said_in_its_place() {
    let node = busy();
    node.put("/run/pin-hook/journal", "{\"version\":99}\n");
    node.remove("/sys/devices/system/cpu/online");
    let (text, status) = node.shown(&["report"]);
    assert_eq!(status, 0);
    let section = |title: &str| {
        let rest = text
            .split(&format!("\n## {title}"))
            .nth(1)
            .unwrap_or_default();
        rest.split("\n## ").next().unwrap_or_default().to_owned()
    };
    assert!(section("cpus").contains("**error**"), "{text}");
    assert!(section("check").contains("**error**"), "{text}");
    assert!(section("at a glance").contains("newer pin-hook"), "{text}");
    assert!(
        section("changed on this host").contains("newer pin-hook"),
        "{text}"
    );
    assert!(section("vm 100").contains("cpus = \"11,23\""), "{text}");
}

/// Checks that a page is well-formed: every element is closed in order, every value quoted.
fn check_form(html: &str) {
    let body = html.strip_prefix("<!DOCTYPE html>\n").unwrap();
    let mut open: Vec<&str> = Vec::new();
    let mut rest = body;
    while let Some(at) = rest.find('<') {
        check_text(&rest[..at], open.last() == Some(&"style"));
        let (tag, after) = rest[at + 1..].split_once('>').unwrap();
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{tag}");
            continue;
        }
        let (name, attributes) = tag
            .split_once(' ')
            .unwrap_or((tag.trim_end_matches('/'), ""));
        assert!(
            name.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "{tag}"
        );
        check_attributes(attributes.trim_end_matches('/'));
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty() && rest == "\n", "{open:?}");
}

fn check_text(text: &str, is_style: bool) {
    assert!(is_style || !text.contains('>'), "{text}");
    let entities = ["amp;", "lt;", "gt;", "quot;"];
    for after in text.split('&').skip(1) {
        assert!(
            entities.iter().any(|entity| after.starts_with(entity)),
            "{text}"
        );
    }
}

fn check_attributes(attributes: &str) {
    let mut rest = attributes.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap();
        assert!(
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
            "{attributes}"
        );
        let (value, after) = after.split_once('"').unwrap();
        check_text(value, false);
        rest = after.trim_start();
    }
}
