//! What the doctor says of tables: beside each other, beside their VMs, and of host.toml.

use std::fs;

use tempfile::TempDir;

use crate::{asked, hosts, node, put};

/// Joins what was wrapped for a terminal.
fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn short(dir: &TempDir) -> String {
    asked(dir.path(), &["check", "--short"]).0
}

#[test]
fn two_tables_that_name_the_same_cpus_are_told() {
    let dir = node();
    put(
        &dir,
        "/etc/pve/qemu-server/101.conf",
        "name: nas\ncores: 2\nhookscript: local:snippets/pin-hook\n",
    );
    put(&dir, "/etc/pin-hook/101.toml", "cpus = \"10-11\"\n");
    let told = "vm 100 and vm 101 both name cpu 11: they cannot own them at the same time";
    let text = short(&dir);
    for vmid in [100, 101] {
        let line = format!("warning vm {vmid} overlap: {told}\n");
        assert!(text.contains(&line), "{text}");
    }
    let (text, status) = asked(dir.path(), &["check", "100"]);
    let fix =
        "fix: pin-hook init 100 proposes other cpus, if enough are left; or yield.stop = [101]";
    let text = joined(&text);
    assert!(text.contains(fix) && status == 4, "{text}");
    let (plan, _) = asked(dir.path(), &["plan", "100"]);
    assert!(
        plan.contains(&format!("pin-hook: warning: {told}\n")),
        "{plan}"
    );
    let table = "cpus = \"11,23\"\nyield.stop = [101]\n";
    put(&dir, "/etc/pin-hook/100.toml", table);
    let text = short(&dir);
    assert!(!text.contains("overlap"), "{text}");
    let (plan, _) = asked(dir.path(), &["plan", "100"]);
    assert!(!plan.contains("both name"), "{plan}");
}

#[test]
fn tables_that_nobody_uses_are_told() {
    let dir = node();
    put(&dir, "/etc/pve/lxc/104.conf", "cores: 1\n");
    put(&dir, "/etc/pin-hook/104.toml", "cpus = \"4-5\"\n");
    put(&dir, "/etc/pin-hook/105.toml/x", "");
    let text = short(&dir);
    for told in [
        "strays: 104 has a table (/etc/pin-hook/104.toml), but it is a container\n",
        "strays: 105 has a table (/etc/pin-hook/105.toml), but there is no such vm\n",
    ] {
        assert!(text.contains(told), "{text}");
    }
}

/// A VM whose table cannot be read was meant to have one.
#[test]
fn a_vm_with_a_directory_for_a_table_is_examined() {
    let dir = node();
    put(&dir, "/etc/pve/qemu-server/105.conf", "cores: 1\n");
    put(&dir, "/etc/pin-hook/105.toml/x", "");
    let text = short(&dir);
    assert!(text.contains("failure vm 105 table: "), "{text}");
}

/// It is told of the host; of a VM, that no start is granted with it.
#[test]
fn a_broken_host_table_is_named_where_a_vm_suffers_from_it() {
    let dir = node();
    put(&dir, "/etc/pin-hook/host.toml", "reserve = maybe\n");
    let text = short(&dir);
    let file = "/etc/pin-hook/host.toml:1:11: ";
    for told in ["host settings: ", "vm 100 start: "] {
        assert!(text.contains(&format!("failure {told}{file}")), "{text}");
    }
    assert!(!text.contains("vm 100 table"), "{text}");
}

/// What init would propose are CPUs; what mends it is what the guest is told.
#[test]
fn the_fix_of_cores_that_the_guest_does_not_know_tells_it() {
    let dir = node();
    let conf = |cpu: &str| {
        let conf = format!("name: vr\ncores: 2\ncpu: {cpu}\nhookscript: local:snippets/pin-hook\n");
        put(&dir, "/etc/pve/qemu-server/100.conf", &conf);
        asked(dir.path(), &["check", "100"])
            .0
            .replace("\n           ", " ")
    };
    let smp = "-smp 2,sockets=1,cores=1,threads=2,maxcpus=2";
    let text = conf("host");
    let told = format!(
        "guest-smt: vcpus share cores and the guest does not know which fix: qm set 100 --args '{smp} \
         -global host-x86_64-cpu.topoext=on'\n"
    );
    assert!(text.contains(&told), "{text}");
    assert!(!text.contains("placement: "), "{text}");
    let text = conf("kvm64");
    assert!(
        text.contains("topoext=on'; qm set 100 --cpu host\n"),
        "{text}"
    );
    let text = conf("EPYC");
    assert!(text.contains(&format!("--args '{smp}'\n")), "{text}");
}

/// QEMU leaves `topoext` out of every model but AMD's own: without it the guest takes each thread for a core.
#[test]
fn threads_that_a_guest_on_amd_does_not_see_are_told() {
    let dir = node();
    let conf = |more: &str| {
        let conf = format!("name: vr\ncores: 2\nhookscript: local:snippets/pin-hook\n{more}");
        put(&dir, "/etc/pve/qemu-server/100.conf", &conf);
        short(&dir)
    };
    let smp = "args: -smp 2,cores=1,threads=2";
    let told = "guest-smt: args give the guest threads=2, which it does not see without topoext";
    for more in [
        format!("cpu: host\n{smp}\n"),
        format!("cpu: kvm64\n{smp}\n"),
    ] {
        let text = conf(&more);
        assert!(text.contains(told), "{text}");
    }
    for more in [
        format!("cpu: EPYC-Rome\n{smp}\n"),
        format!("cpu: host\n{smp} -global host-x86_64-cpu.topoext=on\n"),
        "cpu: host\n".to_owned(),
    ] {
        let text = conf(&more);
        assert!(!text.contains(told), "{text}");
    }
    // Intel's guests need no such flag.
    let cpuinfo = "processor\t: 0\nvendor_id\t: GenuineIntel\n";
    put(&dir, "/proc/cpuinfo", cpuinfo);
    let text = conf(&format!("cpu: host\n{smp}\n"));
    assert!(!text.contains("guest-smt"), "{text}");
}

/// Where no options of QEMU help, the table does.
#[test]
fn cores_that_no_guest_can_be_told_of_are_mended_in_the_table() {
    let dir = node();
    put(
        &dir,
        "/etc/pve/qemu-server/100.conf",
        "name: vr\ncores: 2\ncpu: host\nhotplug: cpu\nhookscript: local:snippets/pin-hook\n",
    );
    let (text, _) = asked(dir.path(), &["check", "100"]);
    let text = joined(&text);
    let told = "guest-smt: vcpus share cores and the guest does not know which fix: smt = \"idle-sibling\" in \
                the table of the vm, with a cpu of another core for each vcpu";
    assert!(text.contains(told), "{text}");
}

/// Proposals of init pass the check of the CPUs.
#[test]
fn what_init_proposes_is_no_doubt_of_the_doctor() {
    for (host, cores, mib) in [
        ("lab", 3, 512),
        ("synthetic-2s-4n", 12, 512),
        ("synthetic-snc", 9, 512),
        ("xeon-2s-64g", 8, 98304),
    ] {
        let (dir, _) = hosts::host(host);
        let conf = format!(
            "cores: {cores}\ncpu: host\nmemory: {mib}\nhookscript: local:snippets/pin-hook\n"
        );
        put(&dir, "/etc/pve/qemu-server/100.conf", &conf);
        let words = ["init", "100", "--smt", "idle-sibling"];
        let (table, status) = asked(dir.path(), &words);
        assert_eq!(status, 0, "{host}: {table}");
        fs::create_dir_all(dir.path().join("etc/pin-hook")).unwrap();
        put(&dir, "/etc/pin-hook/100.toml", &table);
        let text = short(&dir);
        assert!(!text.contains("placement"), "{host}: {table}{text}");
    }
}
