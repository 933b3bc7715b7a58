//! `topology`: pictures of hosts, through the program itself.
//!
//! What is printed is compared with `tests/map/<name>.out`; `UPDATE_GOLDENS=1` rewrites it. Look at the
//! difference as somebody who administers such a host.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "common/goldens.rs"]
mod goldens;
#[path = "common/hosts.rs"]
mod hosts;
#[path = "common/trees.rs"]
mod trees;

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

fn shown(root: &TempDir, locale: &str, words: &[&str]) -> String {
    let mut command = Command::cargo_bin("pin-hook").unwrap();
    let command = command.arg("topology").args(words).arg("--root");
    let command = command.arg(root.path()).env("LC_ALL", locale);
    let output = command.output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn check_on(root: &TempDir, name: &str, words: &[&str]) {
    let text = shown(root, "C.UTF-8", words);
    let blank = if words.is_empty() { "" } else { " " };
    let shown = format!("$ pin-hook topology{blank}{}\n{text}", words.join(" "));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/map");
    let expected = folder.join(format!("{name}.out"));
    if goldens::update() {
        fs::write(&expected, &shown).unwrap();
    }
    assert_eq!(fs::read_to_string(&expected).unwrap_or_default(), shown);
    let width = words.iter().position(|word| *word == "--width");
    let width = width.map_or(80, |n| words[n + 1].parse().unwrap());
    let mut lines = text.lines().filter(|line| !line.contains('\u{1b}'));
    assert!(lines.all(|line| line.chars().count() <= width), "{text}");
}

#[track_caller]
fn check(host: &str, name: &str, words: &[&str]) {
    check_on(&hosts::unpack(&hosts::entries(host)), name, words);
}

#[test]
fn small_hosts_are_drawn() {
    check("one-core", "one-core", &[]);
    check("5900x-l3-as-numa", "5900x-l3-as-numa", &[]);
    check("core-12700", "core-12700", &[]);
    check("core-ultra-225u", "core-ultra-225u", &[]);
    check("nosmt-16", "nosmt-16", &[]);
    check("synthetic-snc", "snc", &[]);
}

#[test]
fn large_hosts_are_drawn() {
    check("xeon-2s-16", "xeon-2s-16", &[]);
    check("threadripper-2990wx", "threadripper-2990wx", &[]);
    check("threadripper-24", "threadripper-24", &[]);
    check("epyc-nps4", "epyc-nps4", &[]);
    check("epyc-nps4", "epyc-nps4-200", &["--width", "200"]);
}

#[test]
fn what_is_too_large_is_folded() {
    check("epyc-nps4", "epyc-nps4-40", &["--width", "40"]);
    check("synthetic-1280", "1280", &[]);
}

#[test]
fn ascii_is_enough() {
    check("threadripper-2990wx", "ascii", &["--ascii"]);
    let root = hosts::unpack(&hosts::entries("core-12700"));
    let text = shown(&root, "C", &[]);
    assert!(text.is_ascii(), "{text}");
    assert_eq!(text, shown(&root, "C.UTF-8", &["--ascii"]));
}

/// Returns the record of what a VM claims.
fn claim(vmid: u32, cpus: &str, backend: &str, state: &str, devices: &str) -> String {
    format!(
        "{{\"claim\":{{\"vmid\":{vmid},\"state\":{state},\"wishes\":{{\"cpus\":\"{cpus}\",\
         \"vcpus\":[],\"emulator\":null,\"iothreads\":{{}},\"vhost\":[],\
         \"backend\":\"{backend}\",\"reason\":\"\",\"kernel-threads\":true,\
         \"interrupts\":true,\"affinity\":null,\"stays-delegated\":true}},\
         \"devices\":{{{devices}}}}}}}\n"
    )
}

const RUNNING: &str = "{\"running\":{\"qemu\":{\"tid\":500,\"start\":500}}}";

/// Two VMs own CPUs, one that has a table does not run, somebody else has a partition, and a CPU of
/// the first VM was taken offline.
fn busy() -> TempDir {
    let mut entries = hosts::entries("xeon-2s-64g");
    trees::add(&mut entries, "hba");
    let mut put = |path: &str, text: &str| entries.insert(path.to_owned(), text.to_owned());
    let reserved = "{\"reserved\":{\"starter\":{\"tid\":1,\"start\":1},\
                    \"deadline\":{\"secs\":9,\"nanos\":0}}}";
    let device = "\"0000:87:00.0\":\"1000:0097\"";
    let log = [
        "{\"version\":1}\n".to_owned(),
        claim(100, "13-16,37-40", "isolated", RUNNING, device),
        claim(107, "2-5,26-29", "slices", reserved, ""),
    ];
    put("/run/pin-hook/journal", &log.concat());
    put("/proc/500/task/500/stat", &hosts::stat(500, "kvm", 0));
    put("/etc/pve/qemu-server/100.conf", "name: vr\ncores: 8\n");
    put("/etc/pve/qemu-server/107.conf", "name: build\ncores: 8\n");
    put(
        "/etc/pve/qemu-server/108.conf",
        "name: nas\nhostpci0: 3b:00\n",
    );
    put("/etc/pin-hook/108.toml", "cpus = \"20-21\"\n");
    let group = "/sys/fs/cgroup/rt.slice/cpuset.cpus";
    put(&format!("{group}.partition"), "isolated\n");
    put(&format!("{group}.exclusive"), "\n");
    put(&format!("{group}.exclusive.effective"), "22,46\n");
    put(&format!("{group}.effective"), "22,46\n");
    put(group, "22,46\n");
    put("/sys/devices/system/cpu/isolated", "23\n");
    hosts::unpack(&offline(entries, "40"))
}

/// Takes a CPU offline: the kernel shows no topology of it.
fn offline(entries: hosts::Entries, cpu: &str) -> hosts::Entries {
    let without = |list: &str| {
        let cpus: pin_hook::domain::cpuset::CpuSet = list.parse().unwrap();
        format!("{}\n", cpus.difference(&cpu.parse().unwrap()))
    };
    let is_gone = format!("/sys/devices/system/cpu/cpu{cpu}/");
    let lists = ["_list", "/cpulist", "cpu/online"];
    let entries = entries.into_iter();
    let kept = entries.filter(|(path, _)| !path.starts_with(&is_gone));
    kept.map(|(path, text)| {
        let is_list = lists.iter().any(|end| path.ends_with(end)) && path.contains("/system/");
        let text = if is_list { without(&text) } else { text };
        (path, text)
    })
    .collect()
}

#[test]
fn owners_have_marks() {
    let root = busy();
    check_on(&root, "busy", &[]);
    check_on(&root, "busy-40", &["--width", "40"]);
    check_on(&root, "busy-120", &["--width", "120"]);
    check_on(&root, "busy-color", &["--color", "always"]);
    let wide = ["--width", "200", "--color", "always"];
    check_on(&root, "busy-color-200", &wide);
}

#[test]
fn owners_are_told_where_cores_are_folded() {
    let mut entries = hosts::entries("synthetic-1280");
    let log = [
        "{\"version\":1}\n".to_owned(),
        claim(100, "8-15,648-655", "isolated", RUNNING, ""),
        claim(101, "16-31,656-671", "isolated", RUNNING, ""),
        claim(102, "200-203,840-843", "isolated", RUNNING, ""),
    ];
    let mut put = |path: &str, text: &str| entries.insert(path.to_owned(), text.to_owned());
    put("/run/pin-hook/journal", &log.concat());
    put("/proc/500/task/500/stat", &hosts::stat(500, "kvm", 0));
    let root = hosts::unpack(&entries);
    check_on(&root, "owned-1280", &[]);
}

#[test]
fn the_map_is_printed_as_json() {
    let text = shown(&busy(), "C", &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["version"], 1);
    assert_eq!(json["nodes"][1]["memory_kib"], 67_108_864);
    assert_eq!(json["l3_domains"][1]["cpus"], "12-23,36-39,41-47");
    let core = serde_json::json!({
        "package": 1, "node": 1, "l3_domain": 1, "kind": null, "cpus": "13,37"
    });
    assert_eq!(json["cores"][13], core);
    let kinds = json["owners"].as_array().unwrap().iter();
    let kinds: Vec<&str> = kinds.map(|one| one["kind"].as_str().unwrap()).collect();
    let expected = ["vm", "vm", "partition", "isolcpus", "host", "offline"];
    assert_eq!(kinds, expected);
    assert_eq!(json["owners"][0]["name"], "vr");
    assert_eq!(json["owners"][0]["cpus"], "13-16,37-40");
    assert_eq!(json["owners"][1]["state"], "reserved");
    let device = serde_json::json!({"address": "0000:87:00.0", "node": 1, "vmid": 100});
    assert_eq!(json["devices"][0], device);
}

#[test]
fn a_width_has_a_lower_bound() {
    let mut command = Command::cargo_bin("pin-hook").unwrap();
    let output = command
        .args(["topology", "--width", "39"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// The picture for a browser has the same words, in the same places.
#[test]
fn the_picture_can_be_written_as_svg() {
    let root = busy();
    let file = root.path().join("map.svg");
    let printed = shown(&root, "C.UTF-8", &[]);
    let nothing = shown(&root, "C", &["--svg", file.to_str().unwrap()]);
    assert_eq!(nothing, "");
    let svg = fs::read_to_string(&file).unwrap();
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"));
    let texts = svg.lines().filter(|line| line.starts_with("<text "));
    let said = texts.map(|line| {
        let (_, rest) = line.split_once('>').unwrap();
        rest.strip_suffix("</text>").unwrap().to_owned()
    });
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    let is_frame = |c: &char| "─│┌┐└┘".contains(*c);
    let words: String = printed.chars().filter(|c| !is_frame(c)).collect();
    let said = squeezed(&said.collect::<String>());
    assert_eq!(
        said.replace("&amp;", "&").replace("&lt;", "<"),
        squeezed(&words)
    );
    let grounds = svg.matches("fill=\"rgba(").count();
    assert!(grounds > 8, "{grounds}");
    if goldens::update() {
        fs::write("docs/topology.svg", &svg).unwrap();
    }
    assert_eq!(fs::read_to_string("docs/topology.svg").unwrap(), svg);
}
