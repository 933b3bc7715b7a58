//! `list`: every table of this node, and what does not fit.

use pin_hook::host::pve::TextFile;
use pin_hook::lifecycle::show::lint::lint;

use super::{Node, QEMU, hosts, settled};

#[test]
fn list_shows_tables_and_what_does_not_fit() {
    let node = settled();
    let conf = |id: &str, text: &str| {
        node.put(&format!("/etc/pve/qemu-server/{id}.conf"), text);
    };
    let table = |id: &str, text: &str| node.put(&format!("/etc/pin-hook/{id}.toml"), text);
    conf("101", "name: build\ncores: 4\nonboot: 1\n");
    table("101", "cpus = \"10-11,22\"\n\n[isolate]\nalso = \"23\"\n");
    conf(
        "102",
        "name: broken\ncores: 4\nhookscript: local:snippets/gpu.pl\n",
    );
    table("102", "cpus = \"4-5\"\ncolour = \"red\"\n");
    conf("103", "cores: 1\nhookscript: local:snippets/pin-hook\n");
    conf("108", "cores: 1\n");
    node.put("/etc/pve/lxc/104.conf", "cores: 1\n");
    table("104", "cpus = \"4-5\"\n");
    table("105", "cpus = \"4-5\"\n");
    let cluster = "/etc/pve/nodes/pve2/qemu-server/106.conf";
    node.put(cluster, "cores: 1\n");
    node.put("/etc/pve/pin-hook/106.toml", "cpus = \"4-5\"\n");
    node.put(&cluster.replace("106", "107"), "cores: 1\n");
    table("107", "cpus = \"4-5\"\n");
    conf("109", "name: choosy\ncores: 2\n");
    table("109", "cpus = \"auto\"\n");
    conf(
        "110",
        "name: large\ncores: 16\nhookscript: local:snippets/pin-hook\n",
    );
    table("110", "cpus = \"1-9,13-21,30\"\n\n[pin]\nvcpus = [1, 2]\n");
    node.check("list", &["list"]);
    let (text, _) = node.shown(&["list"]);
    let mut lines = text.lines().filter(|line| !line.starts_with("pin-hook: "));
    assert!(lines.all(|line| line.len() <= 80), "{text}");
    let json = node.json(&["list", "--json"]);
    assert_eq!(json["overlaps"][0]["vmids"], serde_json::json!([100, 101]));
    assert_eq!(json["vms"][0]["state"], "running");
    assert_eq!(json["broken"][0]["vmid"], 102);
    assert_eq!(json["misfits"][1]["vmid"], 110);
    assert_eq!(json["vms"][3]["auto"], true);
}

#[test]
fn list_shows_what_was_chosen_for_a_running_vm() {
    let node = settled();
    node.put("/etc/pin-hook/100.toml", "cpus = \"auto\"\n");
    let (text, status) = node.shown(&["list"]);
    assert!(
        text.contains("  100  vr    11,23 (auto)  no      yes   running\n"),
        "{text}"
    );
    assert_eq!(status, 0);
}

#[test]
fn what_a_vm_owns_is_told_before_what_its_table_says_now() {
    let node = settled();
    let row = |node: &Node| {
        let (text, _) = node.shown(&["list"]);
        text.lines().nth(1).unwrap_or_default().to_owned()
    };
    node.put("/etc/pin-hook/100.toml", "cpus = \"9,21\"\n");
    let text = row(&node);
    assert!(text.contains("11,23 (table: 9,21)"), "{text}");
    node.remove("/etc/pin-hook/100.toml");
    let text = row(&node);
    assert!(
        text.contains("11,23") && text.ends_with("running"),
        "{text}"
    );
}

#[test]
fn a_running_vm_whose_config_is_gone_is_shown_with_what_ends_that() {
    let node = settled();
    node.remove("/etc/pin-hook/100.toml");
    node.remove("/etc/pve/qemu-server/100.conf");
    let told = "warning: vm 100 owns cpus 11,23 and runs as process 500, but its config is gone\n\
                pin-hook: help: put /etc/pve/qemu-server/100.conf back, or end it: kill 500, then pin-hook reconcile\n";
    let (text, _) = node.shown(&["list"]);
    assert!(text.contains("\n  100  -     11,23"), "{text}");
    assert_eq!(text.matches(told).count(), 1, "{text}");
    let (text, _) = node.shown(&["status"]);
    assert_eq!(text.matches(told).count(), 1, "{text}");
    let gone = node.json(&["status", "--json"])["gone"].clone();
    let expected = serde_json::json!([{
        "vmid": 100, "cpus": "11,23", "process": 500, "reason": "its config is gone",
    }]);
    assert_eq!(gone, expected);
    node.put("/etc/pve/nodes/pve2/qemu-server/100.conf", "cores: 2\n");
    let told = "vm 100 owns cpus 11,23 and runs as process 500, but vm 100 is on node pve2\n\
                pin-hook: help: the end of a migration ends it; if none is under way: kill 500, then pin-hook reconcile\n";
    let (text, _) = node.shown(&["list"]);
    assert!(text.contains(told), "{text}");
}

/// One that is over is told as that, by what ends it.
#[test]
fn a_run_that_is_over_is_not_told_to_be_running_without_a_config() {
    let node = settled();
    node.remove("/etc/pve/qemu-server/100.conf");
    node.remove(&format!("/proc/{QEMU}/task/{QEMU}/stat"));
    let (text, _) = node.shown(&["status"]);
    assert!(
        text.contains("vm 100 has stopped, but the host is not"),
        "{text}"
    );
    assert!(!text.contains("runs as process"), "{text}");
}

#[test]
fn a_vm_that_runs_without_its_cpus_is_told_apart_from_one_that_is_off() {
    let node = Node::new();
    node.start("", ["0-23", "0-23"]);
    let (text, _) = node.shown(&["list"]);
    assert!(text.contains("runs, owns no cpus"), "{text}");
    let (text, _) = node.shown(&["status"]);
    let expected = "vm 100 has a table but runs without cpus of its own";
    assert!(text.contains(expected), "{text}");
    let (text, _) = node.shown(&["check", "100"]);
    assert!(text.contains("isolation 0 of 5"), "{text}");
    assert_eq!(node.json(&["status", "--json"])["unowned"][0], 100);
}

/// What a VM owns is in force still: nothing may say that it owns nothing.
#[test]
fn what_is_in_force_is_not_denied_where_the_state_is_lost() {
    let node = settled();
    node.remove("/run/pin-hook/journal");
    let lost = "not known of every vm: the state is lost (pin-hook status says what is in force)";
    let (text, _) = node.shown(&["list"]);
    assert!(text.contains(lost), "{text}");
    assert!(text.contains("unknown"), "{text}");
    assert!(!text.contains("owns no cpus"), "{text}");
    let (text, status) = node.shown(&["status"]);
    let first = "the state is lost: nothing says which vm owns which cpus\n";
    assert!(text.starts_with(first) && status != 0, "{text}");
    let held = "cgroup qemu.slice/100.scope/vcpu withholds cpus 11,23 from the host, but nothing says for which vm";
    assert!(text.contains(held), "{text}");
    assert!(!text.contains("without cpus of its own"), "{text}");
    let help = text.lines().find(|line| line.contains("help: "));
    assert!(
        help.is_some_and(|line| line.contains("help: pin-hook apply VMID")),
        "{text}"
    );
    let (text, _) = node.shown(&["topology"]);
    assert!(text.contains("qemu.slice/100.scope/vcpu"), "{text}");
    let (text, _) = node.shown(&["check", "100"]);
    assert!(
        text.contains("isolation unknown: pin-hook status says why"),
        "{text}"
    );
    assert!(node.json(&["check", "100", "--json"])["patients"][1]["level"].is_null());
}

#[test]
fn an_owned_cpu_that_is_offline_is_no_change_of_the_table() {
    let node = settled();
    node.put("/sys/devices/system/cpu/online", "0-22\n");
    let (text, _) = node.shown(&["list"]);
    assert!(!text.contains("has changed"), "{text}");
    assert!(
        text.contains("vm 100: a start would be refused: cpu 23 is offline"),
        "{text}"
    );
}

#[test]
fn tables_are_held_against_what_the_next_start_makes_of_a_vm() {
    let node = settled();
    let conf = "cores: 2\nhookscript: local:snippets/pin-hook\n\n[PENDING]\ncores: 6\n";
    node.put("/etc/pve/qemu-server/101.conf", conf);
    node.put("/etc/pin-hook/101.toml", "cpus = \"10,22\"\n");
    let (text, _) = node.shown(&["list"]);
    let expected = "vm 101: a start would be refused: the table has 2 cpus for 6 vcpus";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn list_tells_what_a_start_is_refused_for() {
    let node = settled();
    node.put("/proc/sys/kernel/osrelease", "6.14.11-4-pve\n");
    node.put("/proc/sys/kernel/sched_rt_runtime_us", "-1\n");
    let wishes = [
        "isolate.backend = \"isolated\"",
        "pin.scheduler = \"fifo:1\"",
        "pin.emulator = \"99\"",
    ];
    for (id, wish) in ["101", "102", "103"].into_iter().zip(wishes) {
        node.put(&format!("/etc/pve/qemu-server/{id}.conf"), "cores: 2\n");
        let table = format!("cpus = \"10,22\"\n{wish}\n");
        node.put(&format!("/etc/pin-hook/{id}.toml"), &table);
    }
    let (text, _) = node.shown(&["list"]);
    for told in [
        "vm 101: a start would be refused: backend \"isolated\" is refused: kernel 6.14.11: ",
        "vm 102: a start would be refused: scheduler fifo:1 can stop the host: kernel.sched_rt_runtime_us is -1",
        "vm 103: a start would be refused: the host has no cpu 99, it has 0-23",
    ] {
        assert_eq!(text.matches(told).count(), 1, "{told}: {text}");
    }
}

/// Memory is held against the table as well, not only its CPUs.
#[test]
fn list_and_check_refuse_a_table_for_the_same_reason() {
    let node = settled();
    let meminfo = "/sys/devices/system/node/node0/meminfo";
    node.put(meminfo, "Node 0 MemTotal:       65536000 kB\n");
    let conf = "cores: 2\nmemory: 4194304\nnuma: 1\nhugepages: 2\n";
    node.put("/etc/pve/qemu-server/101.conf", conf);
    let table = "cpus = \"10,22\"\n\n[memory]\nhugepages = {}\n";
    node.put("/etc/pin-hook/101.toml", table);
    let (path, text) = ("/etc/pin-hook/101.toml".to_owned(), table.to_owned());
    let error = lint(&node.host(), &TextFile { path, text }).error.unwrap();
    let reason = error.message.strip_prefix("/etc/pin-hook/101.toml: ");
    let (text, status) = node.shown(&["list"]);
    let told = format!("vm 101: a start would be refused: {}\n", reason.unwrap());
    assert!(text.contains(&told), "{told}: {text}");
    assert_eq!(status, 1);
}

#[test]
fn a_reserve_that_one_vm_alone_cannot_leave_is_told_of_that_vm() {
    let node = settled();
    node.put("/etc/pin-hook/host.toml", "reserve = 20\n");
    let (text, _) = node.shown(&["list"]);
    assert!(
        text.contains("warning: vm 100: a start would be refused: 20 cores"),
        "{text}"
    );
    assert!(!text.contains("at once"), "{text}");
    let (_, status) = node.shown(&["list"]);
    assert_eq!(status, 1);
}

#[test]
fn a_table_in_its_place_that_nobody_reads_is_told() {
    let node = settled();
    let text = "cpus = \"10,22\"\n";
    node.put("/etc/pve/lxc/104.conf", "cores: 1\n");
    for id in ["103", "104", "0103", "vrbox", "hosts"] {
        node.put(&format!("/etc/pin-hook/{id}.toml"), text);
    }
    let lint = |path: &str| {
        let (path, text) = (path.to_owned(), text.to_owned());
        let warnings = lint(&node.host(), &TextFile { path, text }).warnings;
        let texts = warnings.into_iter().map(|warning| warning.text);
        texts.collect::<Vec<String>>()
    };
    for (name, told) in [
        ("103", "not used: there is no vm 103"),
        ("104", "not used: 104 is a container"),
        ("0103", "is not read; the table of vm 103"),
        ("vrbox", "is not read; a table is named after its vm"),
        (
            "hosts",
            "settings of the node are in /etc/pin-hook/host.toml",
        ),
    ] {
        let warnings = lint(&format!("/etc/pin-hook/{name}.toml"));
        assert!(warnings[0].contains(told), "{warnings:?}");
    }
    assert_eq!(lint("/tmp/103.toml"), [""; 0]);
    let (text, _) = node.shown(&["list"]);
    assert!(text.contains("vrbox.toml is not read"), "{text}");
}

#[test]
fn the_table_of_a_template_is_used_by_nobody() {
    let node = settled();
    node.put("/etc/pve/qemu-server/103.conf", "cores: 2\ntemplate: 1\n");
    let text = "cpus = \"10,22\"\n";
    node.put("/etc/pin-hook/103.toml", text);
    let (shown, _) = node.shown(&["list"]);
    let told = "103 has a table (/etc/pin-hook/103.toml), but it is a template";
    assert!(shown.contains(told), "{shown}");
    let (path, text) = ("/etc/pin-hook/103.toml".to_owned(), text.to_owned());
    let lint = lint(&node.host(), &TextFile { path, text });
    let told = "not used: vm 103 is a template, which runs for backups only";
    assert_eq!(lint.warnings.len(), 1);
    assert_eq!(lint.warnings[0].text, told);
}

#[test]
fn a_broken_hook_of_a_vm_without_a_table_is_mended_by_the_boot_unit() {
    let node = settled();
    node.put(
        "/etc/pve/storage.cfg",
        "dir: local\n\tpath /var/lib/vz\n\tcontent snippets\n",
    );
    node.put("/var/lib/vz/snippets/other", "");
    let conf = "cores: 1\nhookscript: local:snippets/pin-hook\n";
    node.put("/etc/pve/qemu-server/103.conf", conf);
    let (text, _) = node.shown(&["list"]);
    let help = |start: &str| text.contains(&format!("help: {start} fixes it"));
    assert!(help("systemctl restart pin-hook-boot.service"), "{text}");
    assert!(help("pin-hook enable 100"), "{text}");
}

#[test]
fn list_names_tables_that_would_shut_each_other_down() {
    let node = Node::new();
    node.put("/etc/pve/qemu-server/107.conf", "cores: 2\n");
    let table = |id: &str, text: &str| node.put(&format!("/etc/pin-hook/{id}.toml"), text);
    table("100", "cpus = \"11,23\"\nyield.stop = [107]\n");
    table("107", "cpus = \"11,23\"\nyield.stop = [100]\n");
    let (text, status) = node.shown(&["list"]);
    let error = "/etc/pin-hook/107.toml: yield.stop: vm 100 would shut down vm 107 in turn \
                 (/etc/pin-hook/100.toml)";
    assert!(text.contains(error), "{text}");
    assert_eq!(status, 1);
}

#[test]
fn list_without_tables_is_one_line() {
    let entries = hosts::entries("synthetic-5900x");
    let node = Node {
        dir: hosts::unpack(&entries),
    };
    let text = "node synthetic-5900x has no vm with a table\n".to_owned();
    assert_eq!(node.shown(&["list"]), (text, 0));
}

#[test]
fn enabling_says_what_a_start_would_be_refused_for() {
    let node = settled();
    node.put("/var/lib/vz/dump/x", "");
    node.put("/etc/pve/qemu-server/103.conf", "cores: 2\n");
    let enabled = |cpus: &str| {
        node.put("/etc/pin-hook/103.toml", &format!("cpus = \"{cpus}\"\n"));
        node.shown(&["enable", "--dry-run", "103"]).0
    };
    let text = enabled("40-41");
    let told = "warning: a start would be refused now: vm 103: the host has no cpus 40-41";
    assert!(text.contains(told), "{text}");
    assert!(!enabled("4-5").contains("refused now"));
}

#[test]
fn a_table_of_the_cluster_that_a_local_one_hides_is_told() {
    let node = settled();
    let (path, text) = ("/etc/pve/pin-hook/100.toml", "cpus = \"10,22\"\n");
    node.put(path, text);
    let (path, text) = (path.to_owned(), text.to_owned());
    let warnings = lint(&node.host(), &TextFile { path, text }).warnings;
    let told = "not used on this node: /etc/pin-hook/100.toml takes precedence";
    assert!(
        warnings.iter().any(|warning| warning.text == told),
        "{warnings:?}"
    );
}

#[test]
fn settings_of_the_host_in_the_cluster_are_read_by_nobody() {
    let node = settled();
    node.put("/etc/pve/pin-hook/host.toml", "reserve = 3\n");
    let (text, _) = node.shown(&["list"]);
    let told = "/etc/pve/pin-hook/host.toml is not read; settings of a node are in \
                /etc/pin-hook/host.toml there";
    assert!(text.contains(told), "{text}");
}

/// Names of all fields, without those of maps.
fn fields(json: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
    match json {
        serde_json::Value::Object(object) => {
            for (key, value) in object {
                let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
                if key.chars().all(is_name) {
                    found.insert(key.clone());
                }
                fields(value, found);
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

#[test]
fn every_field_of_the_json_is_described() {
    let page = include_str!("../../docs/json.md");
    let node = settled();
    for command in ["status", "list", "check", "topology"] {
        let start = page.find(&format!("\n## {command}\n")).unwrap();
        let section = &page[start + 1..];
        let section = &section[..section.find("\n## ").unwrap_or(section.len())];
        let (text, _) = node.shown(&[command, "--json"]);
        let mut found = std::collections::BTreeSet::new();
        fields(&serde_json::from_str(&text).unwrap(), &mut found);
        found.remove("version");
        // A level is described where it is a part of `check`.
        let is_of_level =
            |name: &String| ["number", "in_force", "means", "next"].contains(&&**name);
        let told = |text: &str, name: &String| {
            text.contains(&format!("`{name}`")) || text.contains(&format!("`{name}[]`"))
        };
        found.retain(|name| !(told(section, name) || is_of_level(name) && told(page, name)));
        assert!(found.is_empty(), "{command}: {found:?}");
    }
}

#[test]
fn a_directory_in_the_place_of_a_table_is_told_with_its_path() {
    let node = settled();
    node.put("/etc/pin-hook/105.toml/x", "");
    let (text, _) = node.shown(&["list"]);
    let told = "105 has a table (/etc/pin-hook/105.toml), but there is no such vm\n";
    assert!(text.contains(told), "{text}");
}

/// Who makes room for whom is settled: the start shuts the other one down.
#[test]
fn cpus_that_one_vm_yields_to_another_are_no_warning() {
    let node = Node::new();
    node.put("/etc/pve/qemu-server/107.conf", "cores: 2\n");
    node.put("/etc/pin-hook/107.toml", "cpus = \"11,23\"\n");
    let (text, status) = node.shown(&["list"]);
    let told =
        "warning: vm 100 and vm 107 both name cpus 11,23: they cannot own them at the same time\n";
    assert!(text.contains(told), "{text}");
    assert_eq!(status, 0);
    let table = "cpus = \"11,23\"\nyield.stop = [107]\n";
    node.put("/etc/pin-hook/100.toml", table);
    let (text, _) = node.shown(&["list"]);
    let told = "pin-hook: vm 100 and vm 107 both name cpus 11,23: a start of vm 100 shuts vm 107 down first (yield.stop)\n";
    assert!(text.contains(told) && !text.contains("warning"), "{text}");
    let json = node.json(&["list", "--json"]);
    assert_eq!(json["overlaps"][0]["yields"], 107);
}

#[test]
fn a_table_that_was_copied_names_the_cpus_of_another_vm() {
    let node = Node::new();
    node.put("/etc/pve/qemu-server/101.conf", "cores: 2\n");
    let (path, text) = (
        "/etc/pin-hook/101.toml".to_owned(),
        "cpus = \"11,23\"\n".to_owned(),
    );
    let warnings = lint(&node.host(), &TextFile { path, text }).warnings;
    let told = "vm 100 and vm 101 both name cpus 11,23: they cannot own them at the same time";
    assert!(
        warnings.iter().any(|warning| warning.text == told),
        "{warnings:?}"
    );
}
