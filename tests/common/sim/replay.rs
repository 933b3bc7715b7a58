//! Replays a record of a real kernel (`tests/records`) and tells where the simulation differs.

use std::collections::BTreeMap;
use std::io;

use super::hugepages::Room;
use super::task::{PF_KTHREAD, PF_NO_SETAFFINITY, PF_WQ_WORKER, TaskSpec};
use super::vm::VmSpec;
use super::{Kernel, Machine, Sim, State, cpus};

/// Errors by the names that the recorder prints.
const ERRORS: [(i32, &str); 17] = [
    (libc::E2BIG, "E2BIG"),
    (libc::EACCES, "EACCES"),
    (libc::EBUSY, "EBUSY"),
    (libc::EEXIST, "EEXIST"),
    (libc::EINVAL, "EINVAL"),
    (libc::EIO, "EIO"),
    (libc::EISDIR, "EISDIR"),
    (libc::ENODEV, "ENODEV"),
    (libc::ENOENT, "ENOENT"),
    (libc::ENOSPC, "ENOSPC"),
    (libc::ENOTDIR, "ENOTDIR"),
    (libc::ENOTEMPTY, "ENOTEMPTY"),
    (libc::EOPNOTSUPP, "ENOTSUP"),
    (libc::EOVERFLOW, "EOVERFLOW"),
    (libc::EPERM, "EPERM"),
    (libc::ERANGE, "ERANGE"),
    (libc::ESRCH, "ESRCH"),
];

/// Flags of kernel threads by the names that the recorder prints.
const KINDS: [(u64, &str); 3] = [
    (PF_KTHREAD, "kernel"),
    (PF_NO_SETAFFINITY, "bound"),
    (PF_WQ_WORKER, "worker"),
];

/// Replays the text of a record of `kernel`; returns one line for each difference.
pub fn replay(kernel: Kernel, record: &str) -> Vec<String> {
    let mut world = World::new(kernel);
    let mut scenario = "";
    let mut differences = Vec::new();
    for (number, line) in (1..).zip(record.lines()) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("scenario ") {
            (world, scenario) = (World::new(kernel), name);
            continue;
        }
        let (step, recorded) = line.rsplit_once(" -> ").expect("a step with its result");
        let simulated = world.run(step);
        if simulated != recorded {
            differences.push(format!(
                "{number} ({scenario}): {step}: the kernel says {recorded}, the simulation {simulated}"
            ));
        }
    }
    differences
}

/// Returns the steps of each scenario of a record, without what the kernel answered.
pub fn steps(record: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut all = BTreeMap::new();
    let mut scenario = "";
    for line in record
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
    {
        match line.strip_prefix("scenario ") {
            Some(name) => scenario = name,
            None => {
                let step = line.rsplit_once(" -> ").map_or(line, |(step, _)| step);
                all.entry(scenario).or_insert_with(Vec::new).push(step);
            }
        }
    }
    all
}

/// A simulated host in the middle of a scenario.
struct World {
    sim: Sim,
    named: BTreeMap<String, i32>,
}

impl World {
    fn new(kernel: Kernel) -> Self {
        let machine = Machine {
            kernel,
            ..Machine::default()
        };
        Self {
            sim: machine.build(),
            named: BTreeMap::new(),
        }
    }

    fn run(&mut self, step: &str) -> String {
        let (op, rest) = step.split_once(' ').unwrap_or((step, ""));
        let (first, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        match op {
            "vm" => self.start_vm(first, rest),
            "end" => self.end_vm(first),
            "spawn" => self.spawn(first, rest),
            "take" => {
                self.sim.take_pages(0, first.parse().expect("a number"));
                "ok".to_owned()
            }
            "leave" => {
                self.sim.leave_pages(0, first.parse().expect("a number"));
                "ok".to_owned()
            }
            "scatter" => {
                let found = first.parse().expect("a number");
                let room = Room {
                    found,
                    ..Room::default()
                };
                self.sim.room(0, room);
                "ok".to_owned()
            }
            "iothread" => self.iothread(first, rest),
            "reload" => {
                self.sim.daemon_reload();
                "ok".to_owned()
            }
            "property" => {
                match rest.strip_prefix("AllowedCPUs=") {
                    Some(list) => self.sim.allow_cpus(first, &cpus(list)),
                    None => self.sim.set_property(first),
                }
                "ok".to_owned()
            }
            "delegated" => {
                let delegated = self.sim.state().delegated(first).unwrap_or_default();
                quoted(&(delegated.join(" ") + "\n"))
            }
            "allowed" => {
                let allowed = self.sim.state().allowed_cpus(first).unwrap_or_default();
                quoted(&(allowed.to_string().replace(',', " ") + "\n"))
            }
            "settle" => "ok".to_owned(),
            "rebirth" => self.rebirth(first),
            "affinity" | "schedule" | "thread" | "process" => self.change_task(op, first, rest),
            "mask" | "usable" | "class" | "kind" | "comm" | "group" | "member" => {
                self.ask_task(op, first, rest)
            }
            _ => self.run_on_path(op, first, rest),
        }
    }

    fn run_on_path(&self, op: &str, path: &str, text: &str) -> String {
        let path = self.path(path);
        let mut state = self.sim.state();
        match op {
            "put" => {
                state.tree.put(&path, &unquoted(text), 0o644);
                "ok".to_owned()
            }
            "mkdir" => verdict(&state.make_dir(&path, 0o755)),
            "rmdir" => verdict(&state.remove_dir(&path)),
            "write" => verdict(&state.write(&path, &unquoted(text))),
            "read" => answer(state.read(&path)),
            "exists" => if state.exists(&path) { "yes" } else { "no" }.to_owned(),
            "drop" => verdict(&state.tree.remove(&path)),
            "list" => answer(state.list(&path).map(|names| names.join(" "))),
            "mode" => match state.owner(&path) {
                Ok(owner) => format!("{:o}", owner.mode),
                Err(error) => name_of(&error),
            },
            _ => panic!("no operation {op}"),
        }
    }

    fn change_task(&self, op: &str, name: &str, rest: &str) -> String {
        let tid = self.tid(name);
        let path = self.path(rest);
        let mut state = self.sim.state();
        match op {
            "affinity" => verdict(&state.set_affinity(tid, &cpus(rest))),
            "schedule" => {
                let (policy, priority) = rest.split_once(' ').expect("class and priority");
                let number = |word: &str| word.parse().expect("a number");
                verdict(&state.set_class(tid, number(policy), number(priority)))
            }
            "thread" => verdict(&state.write(&format!("{path}/cgroup.threads"), &tid.to_string())),
            _ => verdict(&state.write(&format!("{path}/cgroup.procs"), &tid.to_string())),
        }
    }

    fn ask_task(&self, op: &str, name: &str, rest: &str) -> String {
        let tid = self.tid(name);
        let path = self.path(rest);
        let state = self.sim.state();
        let task = state.tasks.get(tid).expect("the task");
        match op {
            "mask" => quoted(&task.mask.to_string()),
            "usable" => {
                let cpus = state.affinity(tid).expect("the task");
                let cpus: Vec<_> = cpus.iter().map(|cpu| cpu.to_string()).collect();
                quoted(&cpus.join(" "))
            }
            "class" => {
                let [policy, rt_priority, priority] = stat_fields(&state, tid, [41, 40, 18]);
                let reset = if task.resets_class { " reset" } else { "" };
                quoted(&format!("{policy}:{rt_priority} {priority}{reset}"))
            }
            "kind" => {
                let [flags] = stat_fields(&state, tid, [9]);
                let named = KINDS.iter().filter(|(flag, _)| flags as u64 & flag != 0);
                let names: Vec<_> = named.map(|(_, name)| *name).collect();
                quoted(&names.join(" "))
            }
            "comm" | "group" => {
                let file = if op == "comm" { "comm" } else { "cgroup" };
                answer(state.read(&format!("/proc/{tid}/{file}")))
            }
            _ => match state.read(&path) {
                Ok(text) if text.lines().any(|line| line == tid.to_string()) => "yes".to_owned(),
                Ok(_) => "no".to_owned(),
                Err(error) => name_of(&error),
            },
        }
    }

    fn path(&self, path: &str) -> String {
        let path = path.replacen('@', "/sys/fs/cgroup", 1);
        let Some((front, rest)) = path.split_once('{') else {
            return path;
        };
        let (action, back) = rest.split_once('}').expect("a closing brace");
        let state = self.sim.state();
        let found = state
            .irqs
            .iter()
            .find(|(_, irq)| irq.actions.iter().any(|name| name == action));
        let (number, _) = found.unwrap_or_else(|| panic!("no interrupt {action}"));
        format!("{front}{number}{back}")
    }

    fn tid(&self, name: &str) -> i32 {
        if let Some(comm) = name.strip_prefix("comm:") {
            return self.sim.find_task(comm).tid;
        }
        if let Some(queue) = name.strip_prefix("rescuer:") {
            return self.sim.state().rescuer_of(queue);
        }
        if let Some(tid) = self.named.get(name).copied().or(name.parse().ok()) {
            return tid;
        }
        let (vmid, which) = name.split_once('.').expect("a task");
        let vm = self.sim.vm(vmid.parse().expect("a VM id"));
        match which {
            "main" => vm.pid,
            n => vm.vcpus[n.parse::<usize>().expect("a vCPU")].1,
        }
    }

    fn start_vm(&self, vmid: &str, rest: &str) -> String {
        let mut words = rest.split(' ');
        let n_vcpus = words
            .next()
            .and_then(|word| word.parse().ok())
            .expect("the number of vCPUs");
        let spec = VmSpec {
            affinity: words.nth(3).map(cpus),
            accelerator: "TCG",
            program: "qemu-system-x86",
            ..VmSpec::with_vcpus(n_vcpus)
        };
        let started = self.sim.start_vm_as(vmid.parse().expect("a VM id"), &spec);
        if started.is_ok() { "ok" } else { "failed" }.to_owned()
    }

    fn end_vm(&self, vmid: &str) -> String {
        self.sim.end_qemu(vmid.parse().expect("a VM id"));
        "ok".to_owned()
    }

    fn spawn(&mut self, name: &str, slice: &str) -> String {
        let group = format!("/{slice}/{name}.service");
        self.sim.state().cgroup_make(&group).expect("a new group");
        let tid = self.sim.spawn(TaskSpec::named("sleep").in_cgroup(&group));
        self.named.insert(name.to_owned(), tid);
        "ok".to_owned()
    }

    fn iothread(&mut self, vmid: &str, name: &str) -> String {
        let main = self.tid(&format!("{vmid}.main"));
        let tid = self.sim.state().spawn_iothread(main, name);
        self.named.insert(name.to_owned(), tid);
        "ok".to_owned()
    }

    /// The driver behind an interrupt frees all of its own and asks for new ones.
    fn rebirth(&self, action: &str) -> String {
        let device = action.trim_end_matches(|c: char| c.is_ascii_digit());
        let mut state = self.sim.state();
        let of_device = |action: &String| action.starts_with(device);
        let numbers: Vec<u32> = state
            .irqs
            .iter()
            .filter(|(_, irq)| irq.actions.iter().any(of_device))
            .map(|(n, _)| *n)
            .collect();
        for number in numbers {
            state.rebirth_irq(number);
        }
        "ok".to_owned()
    }
}

/// Returns fields of `/proc/<pid>/stat`, counted from 1.
fn stat_fields<const N: usize>(state: &State, tid: i32, numbers: [usize; N]) -> [i64; N] {
    let stat = state.read(&format!("/proc/{tid}/stat")).expect("the task");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let fields: Vec<_> = fields.split_whitespace().collect();
    numbers.map(|number| fields[number - 3].parse().expect("a number"))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text")
}

fn unquoted(text: &str) -> String {
    serde_json::from_str(text).expect("a quoted text")
}

fn name_of(error: &io::Error) -> String {
    let number = error.raw_os_error().expect("an error of the kernel");
    let found = ERRORS.iter().find(|(known, _)| *known == number);
    found.map_or_else(|| format!("errno {number}"), |(_, name)| (*name).to_owned())
}

fn verdict<T>(result: &io::Result<T>) -> String {
    result.as_ref().map_or_else(name_of, |_| "ok".to_owned())
}

fn answer(result: io::Result<String>) -> String {
    result.map_or_else(|error| name_of(&error), |text| quoted(&text))
}
