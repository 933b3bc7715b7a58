//! What the doctor knows of a VM.

use crate::domain::advice::Advised;
use crate::domain::guest::Guest;
use crate::domain::vm::Vmid;

/// What has become of the CPUs that a VM owns.
#[derive(Debug, Clone, Default)]
pub enum Owning {
    /// It owns none.
    #[default]
    Nothing,
    /// Only root can see.
    Hidden,
    /// They are its own.
    InForce,
    /// Something keeps them from being that, or from being given back.
    Amiss(Advised),
}

/// What the doctor knows of a VM; what could not be read is missing.
#[derive(Debug, Clone)]
pub struct VmFacts {
    /// Which VM.
    pub vmid: Vmid,
    /// What PVE would start.
    pub guest: Guest,
    /// What has become of the CPUs that it owns at this moment.
    pub owning: Owning,
    /// Where its table is; `None` without one.
    pub table: Option<String>,
    /// A second table, which is not read because of the first.
    pub hidden_table: Option<String>,
    /// Whether the table can be used, and why not.
    pub table_fault: Option<Advised>,
    /// Why a start would be refused.
    pub refusal: Option<Advised>,
    /// VM that has CPUs of its table, where that is why.
    pub refused_for: Option<Vmid>,
    /// What a start would warn of.
    pub warnings: Vec<String>,
    /// What is to be said of the CPUs that its table names, by the rules by which CPUs are chosen.
    pub doubts: Vec<String>,
    /// CPUs that are free and leave less to be said, in words.
    pub better: Option<String>,
    /// What the guest does not know of its cores.
    pub guest_smt: Option<Advised>,
    /// What keeps PVE from calling its hookscript.
    pub hook_fault: Option<Advised>,
    /// What is to be said of the devices that are passed to it.
    pub devices: Vec<String>,
    /// Why PVE cannot pass them.
    pub device_faults: Vec<Advised>,
    /// Whether HA looks after it.
    pub is_ha: bool,
    /// Other nodes that HA may start it on.
    pub ha_nodes: Vec<String>,
    /// Whether its disks are copied to another node.
    pub is_replicated: bool,
    /// What it would lack on nodes that it may move to, as far as they have told.
    pub lacks_elsewhere: Vec<Advised>,
    /// Names of its snapshots.
    pub snapshots: Vec<String>,
    /// Functions of storage controllers that it is to have.
    pub controllers: Vec<String>,
    /// Virtual functions that it is to have.
    pub virtuals: Vec<Virtual>,
    /// What its table asks for although nothing limits idle states, such as `pin.scheduler`.
    pub asks_without_idle: Option<&'static str>,
}

/// Virtual function that a VM is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Virtual {
    /// Its address.
    pub address: String,
    /// Address of its physical function.
    pub physical: String,
    /// Bond that the network device of the physical function is in.
    pub bond: Option<String>,
    /// That network device.
    pub port: Option<String>,
    /// Bridge that it is a port of, or its bond is.
    pub bridge: Option<String>,
    /// Whether it is a port of Open vSwitch, or its bond is.
    pub is_switched: bool,
    /// What stands for the function in the host, in switchdev mode.
    pub representor: Option<Representor>,
}

/// Network device that stands for a virtual function in the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Representor {
    /// Its name.
    pub name: String,
    /// Whether the host does anything with it: it is a port of something, or has a route.
    pub is_used: bool,
    /// Bridge that it is a port of.
    pub bridge: Option<String>,
    /// Whether it is switched off (`ip link set NAME down`).
    pub is_down: bool,
}

impl VmFacts {
    /// Tells whether something keeps it from starting, or from starting with what its table says.
    pub fn is_hindered(&self) -> bool {
        self.refusal.is_some() || self.hook_fault.is_some() || !self.device_faults.is_empty()
    }

    /// Tells whether it was meant to own CPUs.
    pub fn is_pinned(&self) -> bool {
        self.table.is_some()
    }
}
