//! `list` and `status`, and `plan` of a running VM, through the program itself.
//!
//! What is printed is compared with `tests/show/<name>.out`; `UPDATE_GOLDENS=1` rewrites it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "common/goldens.rs"]
mod goldens;
#[path = "common/hosts.rs"]
mod hosts;
#[path = "show/list.rs"]
mod list;
#[path = "show/metrics.rs"]
mod metrics;
#[path = "show/report.rs"]
mod report;
#[path = "show/watch.rs"]
mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use pin_hook::domain::backend::Backend;
use pin_hook::domain::claim::{Claim, ClaimState, Wishes};
use pin_hook::domain::cpuset::{CpuId, CpuSet};
use pin_hook::domain::desired::{Wish, desired};
use pin_hook::domain::facts::Facts;
use pin_hook::domain::knob::Knob;
use pin_hook::domain::stage::Stage;
use pin_hook::domain::state::{Held, Record, State};
use pin_hook::domain::table::{HostKnobs, Power, TransparentHugepages};
use pin_hook::domain::target::{Place, Target, Value};
use pin_hook::domain::vm::{TaskId, Vmid};
use pin_hook::host::Host;
use pin_hook::host::clock::KernelClock;
use pin_hook::host::files::RootFiles;
use pin_hook::host::limit::Limit;
use pin_hook::host::qmp::QmpSockets;
use pin_hook::host::sched::CapturedSched;
use pin_hook::host::systemd::Bus;
use pin_hook::host::target::{DELEGATION, read};
use pin_hook::lifecycle::engine::journal::lines;
use pin_hook::lifecycle::engine::observe::observe;
use tempfile::TempDir;

const QEMU: i32 = 500;
const EXCLUSIVE: &str = "/sys/fs/cgroup/qemu.slice/cpuset.cpus.exclusive";
const PARTITION: &str = "/sys/fs/cgroup/qemu.slice/100.scope/vcpu/cpuset.cpus.partition";

/// A 5900X on which VM 100 runs with CPUs of its own.
struct Node {
    dir: TempDir,
}

impl Node {
    fn new() -> Self {
        Node::on("synthetic-5900x")
    }

    fn on(host: &str) -> Self {
        let mut entries = hosts::entries(host);
        let config = "name: vr\ncores: 2\nargs: -smp 2,cores=1,threads=2\n\
                      hookscript: local:snippets/pin-hook\n";
        entries.insert(
            "/etc/pve/qemu-server/100.conf".to_owned(),
            config.to_owned(),
        );
        let table = "cpus = \"11,23\"\n".to_owned();
        entries.insert("/etc/pin-hook/100.toml".to_owned(), table);
        Node {
            dir: hosts::unpack(&entries),
        }
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.dir.path().join(path.trim_start_matches('/'))).unwrap();
    }

    fn put_thread(&self, tid: i32, comm: &str, group: &str, cpus: &str) {
        for pid in [QEMU, tid] {
            let dir = format!("/proc/{pid}/task/{tid}");
            self.put(&format!("{dir}/stat"), &hosts::stat(tid, comm, 0));
            self.put(&format!("{dir}/cgroup"), &format!("0::/{group}\n"));
        }
        let status = format!("Name:\t{comm}\nCpus_allowed_list:\t{cpus}\n");
        self.put(&format!("/proc/{tid}/status"), &status);
    }

    /// Has the VM run; its vCPU threads are in `group` on the CPUs given.
    fn start(&self, group: &str, cpus: [&str; 2]) {
        self.put("/run/qemu-server/100.pid", &format!("{QEMU}\n"));
        let command = "/usr/bin/kvm\0-pidfile\0/var/run/qemu-server/100.pid\0";
        self.put(&format!("/proc/{QEMU}/cmdline"), command);
        let scope = "qemu.slice/100.scope";
        self.put_thread(QEMU, "kvm", scope, "0-10,12-22");
        self.put_thread(501, "CPU 0/KVM", &format!("{scope}{group}"), cpus[0]);
        self.put_thread(502, "CPU 1/KVM", &format!("{scope}{group}"), cpus[1]);
    }

    fn host(&self) -> Host {
        let files = RootFiles::new(self.dir.path());
        Host {
            sched: Box::new(CapturedSched(files.clone())),
            files: Box::new(files),
            systemd: Box::new(Bus::default()),
            qmp: Box::new(QmpSockets::default()),
            clock: Box::new(KernelClock),
            limit: Limit::default(),
        }
    }

    /// Gives everything the value that the claim wishes for, and writes the log of that.
    fn settle(&self, claim: &Claim) {
        let host = self.host();
        let mut state = State::default();
        state.apply(Record::Claim(Box::new(claim.clone())));
        let facts = observe(&host, &state, &Stage::ACQUIRE, &Facts::default()).unwrap();
        let wishes = desired(&state.claims, &state.held, &facts);
        for (target, Wish { value, baseline }) in wishes {
            let before = read(&host, &target).unwrap();
            let baseline = baseline.unwrap_or(before);
            self.take(&target, &value);
            let held = Held::new(baseline, value);
            state.apply(Record::Intend(vec![(target, held)]));
        }
        let log = state.checkpoint(true);
        self.put("/run/pin-hook/journal", &lines(&log).unwrap());
        self.put("/sys/fs/cgroup/cpuset.cpus.effective", "0-10,12-22\n");
    }

    fn take(&self, target: &Target, value: &Value) {
        let path = target.path();
        match target {
            Target::Delegation(_) => self.put(&path, DELEGATION),
            Target::MemoryNodes(_) => self.put(&path, &format!("{value}\n")),
            Target::Group(_) => self.put(&format!("{path}/cgroup.procs"), ""),
            Target::Knob(knob, _) => {
                let text = value.render(knob.row().grammar);
                self.put(&path, text.trim_start_matches('+'));
            }
            Target::KernelThread(_) => {
                self.put(&path, &format!("Cpus_allowed_list:\t{value}\n"));
            }
            Target::Hugepages(_) | Target::Driver(_) => self.put(&path, &value.to_string()),
            Target::Membership(_) | Target::Affinity(_) | Target::Class(_) => {}
            Target::DropIn(_) | Target::AllowedCpus(_) => {}
        }
    }

    fn shown(&self, words: &[&str]) -> (String, i32) {
        let mut command = Command::cargo_bin("pin-hook").unwrap();
        let command = command.args(words).arg("--root").arg(self.dir.path());
        let command = command.env("LC_ALL", "C.UTF-8");
        let output = command.output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        (text, output.status.code().unwrap())
    }

    #[track_caller]
    fn check(&self, name: &str, words: &[&str]) {
        let (text, status) = self.shown(words);
        let shown = format!("$ pin-hook {}\n{text}exit {status}\n", words.join(" "));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/show");
        let expected = folder.join(format!("{name}.out"));
        if goldens::update() {
            fs::write(&expected, &shown).unwrap();
        }
        assert_eq!(fs::read_to_string(&expected).unwrap_or_default(), shown);
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> serde_json::Value {
        let json: serde_json::Value = serde_json::from_str(&self.shown(words).0).unwrap();
        assert_eq!(json["version"], 1);
        json
    }
}

fn vmid(text: &str) -> Vmid {
    text.parse().unwrap()
}

fn claim(state: ClaimState) -> Claim {
    Claim {
        vmid: vmid("100"),
        state,
        wishes: Wishes {
            cpus: "11,23".parse().unwrap(),
            vcpus: vec![CpuId(11), CpuId(23)],
            emulator: None,
            iothreads: BTreeMap::new(),
            vhost: Vec::new(),
            backend: Backend::Isolated,
            reason: "kernel 7.0.2: no known problem".to_owned(),
            kernel_threads: true,
            interrupts: true,
            power: Power::default(),
            host: HostKnobs::default(),
            workqueues: true,
            watchdog: true,
            scheduler: Default::default(),
            device_interrupts: None,
            affinity: None,
            stays_delegated: true,
            hotplug: false,
            memory: Default::default(),
        },
        iothreads: BTreeMap::new(),
        devices: BTreeMap::new(),
        resets: BTreeMap::new(),
        bindings: BTreeMap::new(),
        offline: Default::default(),
        is_unproven: false,
        standby: None,
        ending: None,
        stopper: None,
    }
}

fn qemu() -> TaskId {
    let start = u64::try_from(QEMU).unwrap();
    TaskId { tid: QEMU, start }
}

/// A node whose VM 100 owns its CPUs.
fn settled() -> Node {
    let node = Node::new();
    node.start("/vcpu", ["11", "23"]);
    node.settle(&claim(ClaimState::Running { qemu: qemu() }));
    node
}

#[test]
fn status_of_a_host_without_claims_is_one_line() {
    let node = Node::new();
    assert_eq!(node.shown(&["status"]), ("no vm owns cpus\n".to_owned(), 0));
    let (text, status) = node.shown(&["status", "100"]);
    assert_eq!((text.as_str(), status), ("vm 100 owns no cpus\n", 0));
    let (text, status) = node.shown(&["status", "999"]);
    assert!(
        text.starts_with("pin-hook: error: there is no vm 999\n"),
        "{text}"
    );
    assert_eq!(status, 1);
}

#[test]
fn status_shows_wanted_and_actual() {
    let node = settled();
    node.check("status", &["status"]);
    node.put("/etc/pve/qemu-server/101.conf", "cores: 1\n");
    node.check("status-other", &["status", "101"]);
    let json = node.json(&["status", "--json"]);
    assert_eq!(json["ok"], true);
    assert_eq!(json["claims"][0]["threads"][1]["wanted"], "11");
    let (text, _) = node.shown(&["status"]);
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
}

/// Every second CPU of a large host makes the longest lists there are.
#[test]
fn status_fits_a_terminal_however_long_the_lists_are() {
    let node = Node::on("synthetic-epyc-7451");
    let list = |first: u32| (first..48).step_by(2).map(CpuId).collect::<CpuSet>();
    let rest = format!("{},48-95", list(0));
    node.start("/vcpu", ["1", "3"]);
    let iothread = "IO iothread-vir";
    let elsewhere = "user.slice/user-1000.slice/user@1000.service/app.slice";
    node.put_thread(503, iothread, elsewhere, &rest);
    let mut claim = claim(ClaimState::Running { qemu: qemu() });
    claim.wishes.cpus = list(1);
    claim.wishes.vcpus = vec![CpuId(1), CpuId(3)];
    claim.wishes.emulator = Some(rest.parse().unwrap());
    node.settle(&claim);
    node.put("/sys/fs/cgroup/cpuset.cpus.effective", &format!("{rest}\n"));
    node.check("status-wide", &["status"]);
    let (text, _) = node.shown(&["status"]);
    let mut lines = text.lines().filter(|line| !line.starts_with("pin-hook: "));
    assert!(lines.all(|line| line.len() <= 80), "{text}");
}

#[test]
fn a_running_vm_as_planned_has_no_changes() {
    settled().check("plan-as-planned", &["plan", "100"]);
}

#[test]
fn the_plan_of_a_running_vm_names_its_threads() {
    let node = Node::new();
    node.start("", ["0-23", "0-23"]);
    node.check("plan-running", &["plan", "100", "-v"]);
}

#[test]
fn status_shows_who_made_room() {
    let node = Node::new();
    let debt = |owners: &str, due: &str| {
        let stopped = "\"stopped\":{\"tid\":600,\"start\":60}";
        let debt = format!("{{\"vmid\":107,{stopped},\"owners\":{{{owners}}}{due}}}");
        node.put(
            "/run/pin-hook/journal",
            &format!("{{\"version\":1}}\n{{\"debt\":{debt}}}\n"),
        );
    };
    debt(
        "\"100\":{\"running\":{\"qemu\":{\"tid\":5,\"start\":6}}}",
        "",
    );
    let text = "pin-hook: vm 107 made room for vm 100 and will be started again afterwards\n";
    for words in [
        ["status"].as_slice(),
        &["status", "100"],
        &["status", "107"],
    ] {
        let (shown, status) = node.shown(words);
        assert!(shown.ends_with(text), "{shown}");
        assert_eq!(status, 0);
    }
    assert!(!node.shown(&["status", "101"]).0.contains("107"));
    let debts = node.json(&["status", "--json"])["debts"].clone();
    let expected = serde_json::json!([{"vmid": 107, "owners": [100], "due_in": null}]);
    assert_eq!(debts, expected);
    debt("", ",\"due\":{\"secs\":0,\"nanos\":0}");
    let (shown, _) = node.shown(&["status"]);
    assert!(
        shown.ends_with("vm 107 made room and will be started again in 0 s\n"),
        "{shown}"
    );
}

#[test]
fn status_fails_when_values_are_not_ours() {
    let node = settled();
    node.put(EXCLUSIVE, "\n");
    node.put("/proc/irq/24/smp_affinity_list", "3\n");
    node.put_thread(501, "CPU 0/KVM", "qemu.slice/100.scope/vcpu", "11,23");
    node.check("status-drift", &["status", "100"]);
    assert_eq!(node.json(&["status", "--json"])["ok"], false);
}

/// What somebody else has changed is not said to be as requested one line above.
#[test]
fn a_setting_that_has_drifted_is_not_as_requested() {
    let node = Node::new();
    node.start("/vcpu", ["11", "23"]);
    let mut claim = claim(ClaimState::Running { qemu: qemu() });
    claim.wishes.host.transparent_hugepages = Some(TransparentHugepages::Madvise);
    node.settle(&claim);
    let said = "  1 setting as requested: host.transparent-hugepages\n";
    assert!(node.shown(&["status"]).0.contains(said));
    node.put(
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "[always] madvise never\n",
    );
    let (text, status) = node.shown(&["status"]);
    assert!(!text.contains("as requested") && status == 1, "{text}");
}

#[test]
fn status_fails_when_the_partition_is_invalid() {
    let node = settled();
    node.put(
        PARTITION,
        "isolated invalid (Parent is not a partition root)\n",
    );
    node.check("status-invalid", &["status"]);
}

#[test]
fn status_fails_when_a_claim_has_failed() {
    let node = Node::new();
    node.start("", ["0-23", "0-23"]);
    let reason = "the kernel reports \"isolated invalid\"".to_owned();
    let state = ClaimState::Failed {
        qemu: qemu(),
        reason,
    };
    node.settle(&claim(state));
    node.check("status-failed", &["status"]);
}

#[test]
fn status_says_where_the_answer_is_to_what_the_kernel_refused() {
    let node = settled();
    let cpus = |list: &str| Value::Cpus(list.parse().unwrap());
    let held = Held {
        refused: 2,
        ..Held::new(cpus("0-23"), cpus("0-10"))
    };
    let target = Target::Knob(Knob::WatchdogCpus, Place::Host);
    let record = Record::Intend(vec![(target, held)]);
    let log = fs::read_to_string(node.dir.path().join("run/pin-hook/journal")).unwrap();
    let record = lines([&record]).unwrap();
    node.put("/run/pin-hook/journal", &format!("{log}{record}"));
    let (shown, _) = node.shown(&["status"]);
    let told = "/proc/sys/kernel/watchdog_cpumask: the kernel did not accept \"0-10\", tried 2 \
                times\n\
                pin-hook: help: journalctl -t pin-hook shows its response\n";
    assert!(shown.contains(told), "{shown}");
}

#[test]
fn status_fails_while_a_run_that_is_over_holds_the_host() {
    let node = settled();
    node.remove(&format!("/proc/{QEMU}/task/{QEMU}/stat"));
    let (text, status) = node.shown(&["status"]);
    assert!(
        text.contains("vm 100 has stopped, but the host is not restored"),
        "{text}"
    );
    assert!(
        text.contains("vm 100: has stopped but still owns"),
        "{text}"
    );
    assert_eq!(status, 1);
    assert!(!text.contains("still to be made by reconcile"), "{text}");
    assert_eq!(
        node.json(&["status", "--json"])["claims"][0]["state"],
        "over"
    );
    let (text, _) = node.shown(&["list"]);
    assert!(
        text.contains("vm 100 has stopped, but the host is not restored"),
        "{text}"
    );
    assert!(!text.contains("running"), "{text}");
}

#[test]
fn check_fails_where_what_a_vm_owns_is_not_in_force() {
    let node = settled();
    assert!(!node.shown(&["check", "100"]).0.contains("in-force"));
    node.put(PARTITION, "member\n");
    let (text, status) = node.shown(&["check", "100"]);
    assert!(text.contains("failure  in-force"), "{text}");
    assert!(text.contains("pin-hook apply 100"), "{text}");
    assert_eq!(status, 1);
    assert_eq!(node.shown(&["check", "100", "--quiet"]).1, 1);
}

#[test]
fn what_was_born_since_is_pending_and_no_drift() {
    let node = settled();
    node.put_thread(503, "worker", "qemu.slice/100.scope/vcpu", "11,23");
    let json = node.json(&["status", "--json"]);
    assert_eq!(json["ok"], true);
    assert!(json["pending"].as_u64().unwrap() > 0);
}

#[test]
fn a_damaged_journal_is_a_failure_in_both_forms() {
    let node = Node::new();
    node.put("/run/pin-hook/journal", "garbage\n");
    let (text, status) = node.shown(&["status", "--color=never"]);
    let told = "pin-hook: warning: the state in /run/pin-hook/journal is damaged: line 1\n\
                pin-hook: help: pin-hook reconcile sets the damaged part aside";
    assert!(text.contains(told), "{text}");
    assert_eq!(status, 1);
    let json = node.json(&["status", "--json"]);
    assert_eq!(json["ok"], false);
    let damage = json["damage"].as_str().unwrap();
    assert!(damage.ends_with("is damaged: line 1"), "{damage}");
}
