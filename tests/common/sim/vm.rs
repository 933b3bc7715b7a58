//! VMs as PVE and QEMU make them: configuration, scope, process, threads, monitor.

use std::collections::BTreeSet;
use std::io;

use pin_hook::domain::cpuset::CpuSet;

use super::task::TaskSpec;
use super::{Kernel, Sim, State, errno};

/// A running VM.
#[derive(Debug, Clone)]
pub struct Vm {
    pub pid: i32,
    pub vcpus: Vec<(u32, i32)>,
    pub iothreads: Vec<(String, i32)>,
    pub run_state: String,
}

/// How a VM is started.
#[derive(Debug, Clone)]
pub struct VmSpec {
    pub vcpus: u32,
    /// Names of QEMU's iothread objects, such as `iothread-virtioscsi0`.
    pub iothreads: Vec<String>,
    /// PVE's `affinity:`: the command runs under `taskset --cpu-list --all-tasks`.
    pub affinity: Option<CpuSet>,
    /// What `query-status` answers.
    pub run_state: String,
    /// Functions that are passed through.
    pub devices: Vec<String>,
    /// `KVM`, or `TCG` without hardware virtualisation: part of the threads' names.
    pub accelerator: &'static str,
}

impl VmSpec {
    pub fn with_vcpus(vcpus: u32) -> Self {
        Self {
            vcpus,
            iothreads: Vec::new(),
            affinity: None,
            devices: Vec::new(),
            run_state: "running".to_owned(),
            accelerator: "KVM",
        }
    }

    pub fn iothread(mut self, name: &str) -> Self {
        self.iothreads.push(name.to_owned());
        self
    }

    pub fn device(mut self, address: &str) -> Self {
        self.devices.push(address.to_owned());
        self
    }

    pub fn affinity(mut self, cpus: CpuSet) -> Self {
        self.affinity = Some(cpus);
        self
    }

    pub fn run_state(mut self, state: &str) -> Self {
        self.run_state = state.to_owned();
        self
    }
}

fn command_line(vmid: u32, n_vcpus: u32) -> Vec<String> {
    let qmp = format!("socket,id=qmp,path=/var/run/qemu-server/{vmid}.qmp,server=on,wait=off");
    let pidfile = format!("/var/run/qemu-server/{vmid}.pid");
    let smp = format!("{n_vcpus},sockets=1,cores={n_vcpus},maxcpus={n_vcpus}");
    let name = format!("vm{vmid},debug-threads=on");
    let args = [
        "/usr/bin/kvm",
        "-id",
        &vmid.to_string(),
        "-name",
        &name,
        "-no-shutdown",
        "-chardev",
        &qmp,
        "-mon",
        "chardev=qmp,mode=control",
        "-pidfile",
        &pidfile,
        "-daemonize",
        "-smp",
        &smp,
        "-m",
        "4096",
    ];
    args.map(str::to_owned).to_vec()
}

impl State {
    fn start_vm(&mut self, vmid: u32, spec: &VmSpec) -> io::Result<i32> {
        let mut cmdline = command_line(vmid, spec.vcpus);
        for (n, address) in spec.devices.iter().enumerate() {
            let device = format!("vfio-pci,host={address},id=hostpci{n}");
            cmdline.extend(["-device".to_owned(), device]);
        }
        let pid = self.spawn(TaskSpec {
            cmdline,
            ..TaskSpec::named("kvm").in_cgroup("/system.slice/pvedaemon.service")
        });
        self.start_scope(&format!("{vmid}.scope"), pid);
        let taskset = spec
            .affinity
            .as_ref()
            .map(|cpus| self.set_affinity(pid, cpus));
        if let Some(Err(error)) = taskset {
            self.end_task(pid);
            self.collect_scopes();
            return Err(error);
        }
        let vm = self.start_threads(pid, spec);
        self.vms.insert(vmid.to_string(), vm);
        let pidfile = format!("/run/qemu-server/{vmid}.pid");
        self.tree.put(&pidfile, &format!("{pid}\n"), 0o600);
        self.tree
            .put(&format!("/run/qemu-server/{vmid}.qmp"), "", 0o600);
        Ok(pid)
    }

    /// A VM's process ends by itself.
    pub fn end_vm(&mut self, vmid: u32) {
        self.kill_vm(vmid);
        let _ = self.tree.remove(&format!("/run/qemu-server/{vmid}.pid"));
    }

    fn kill_vm(&mut self, vmid: u32) {
        let vm = self.vms.remove(&vmid.to_string()).expect("the VM runs");
        self.end_task(vm.pid);
        self.collect_scopes();
        let _ = self.tree.remove(&format!("/run/qemu-server/{vmid}.qmp"));
    }

    /// QEMU's main thread starts the others.
    fn start_threads(&mut self, pid: i32, spec: &VmSpec) -> Vm {
        self.spawn_thread(pid, "call_rcu");
        let iothread =
            |name: &String| (name.clone(), self.spawn_thread(pid, &format!("IO {name}")));
        let iothreads = spec.iothreads.iter().map(iothread).collect();
        let vcpu = |n| {
            (
                n,
                self.spawn_thread(pid, &format!("CPU {n}/{}", spec.accelerator)),
            )
        };
        let vcpus = (0..spec.vcpus).map(vcpu).collect();
        self.spawn_thread(pid, "vnc_worker");
        let run_state = spec.run_state.clone();
        Vm {
            pid,
            vcpus,
            iothreads,
            run_state,
        }
    }
}

impl Sim {
    /// Puts the VM's configuration where PVE has it.
    pub fn vm_conf(&self, vmid: u32, text: &str) {
        let path = format!("/etc/pve/nodes/pve1/qemu-server/{vmid}.conf");
        self.state().tree.put(&path, text, 0o640);
    }

    /// Puts the VM's pinning table.
    pub fn table(&self, vmid: u32, text: &str) {
        self.put(&format!("/etc/pin-hook/{vmid}.toml"), text);
    }

    /// Starts a VM with `n_vcpus` vCPUs and returns its process id.
    pub fn start_vm(&self, vmid: u32, n_vcpus: u32) -> i32 {
        let started = self.start_vm_as(vmid, &VmSpec::with_vcpus(n_vcpus));
        started.expect("nothing refuses this VM")
    }

    /// Starts a VM; fails as PVE's `taskset` does when none of the CPUs of `affinity:` may be used.
    pub fn start_vm_as(&self, vmid: u32, spec: &VmSpec) -> io::Result<i32> {
        self.state().start_vm(vmid, spec)
    }

    /// Ends a VM's process; systemd removes its scope. Like QEMU, which unlinks its pidfile,
    /// unless it is killed.
    pub fn end_qemu(&self, vmid: u32) {
        self.state().end_vm(vmid);
    }

    /// Kills a VM's process; its pidfile stays behind.
    pub fn kill_qemu(&self, vmid: u32) {
        self.state().kill_vm(vmid);
    }

    /// Returns a copy of a running VM.
    pub fn vm(&self, vmid: u32) -> Vm {
        self.state()
            .vms
            .get(&vmid.to_string())
            .expect("the VM runs")
            .clone()
    }

    /// Returns the tasks of a running VM.
    pub fn vm_tids(&self, vmid: u32) -> BTreeSet<i32> {
        let pid = self.vm(vmid).pid;
        let state = self.state();
        state.tasks.of_process(pid).map(|task| task.tid).collect()
    }

    /// Sets what `query-status` answers, such as `prelaunch`.
    pub fn set_run_state(&self, vmid: u32, run_state: &str) {
        let mut state = self.state();
        let vm = state.vms.get_mut(&vmid.to_string()).expect("the VM runs");
        run_state.clone_into(&mut vm.run_state);
    }

    /// The guest plugs a vCPU; QEMU's main thread creates its thread.
    pub fn plug_vcpu(&self, vmid: u32) -> i32 {
        let mut state = self.state();
        let vm = state
            .vms
            .get(&vmid.to_string())
            .expect("the VM runs")
            .clone();
        let n = vm.vcpus.last().map_or(0, |(n, _)| n + 1);
        let tid = state.spawn_thread(vm.pid, &format!("CPU {n}/KVM"));
        state
            .vms
            .get_mut(&vmid.to_string())
            .expect("the VM")
            .vcpus
            .push((n, tid));
        tid
    }

    /// The first vCPU enters the guest: since 6.14 that creates a thread of KVM's beside it.
    pub fn first_kvm_run(&self, vmid: u32) -> Option<i32> {
        let (_, first) = self.vm(vmid).vcpus[0];
        let mut state = self.state();
        let creates = state.kernel >= Kernel(6, 14);
        creates.then(|| state.spawn_thread(first, "kvm-nx-lpage-recovery"))
    }
}

/// Returns the answer of a VM's monitor, or the error of a socket that is not there.
pub fn monitor(state: &State, vmid: &str) -> io::Result<Vm> {
    state
        .vms
        .get(vmid)
        .cloned()
        .ok_or_else(|| errno(libc::ENOENT))
}
