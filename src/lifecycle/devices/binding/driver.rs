//! Taking a function from the driver that it has, and giving it to another one.

use std::io;
use std::time::Duration;

use crate::domain::pci::VFIO;
use crate::domain::pci::binding::NoBinding;
use crate::host::errand::Write;
use crate::host::pci::{self, DEVICES};
use crate::host::systemd::Job;
use crate::lifecycle::devices::waiting::PAUSE;
use crate::lifecycle::engine::at_work;
use crate::lifecycle::engine::run::Run;

/// Where the kernel shows drivers.
pub(super) const DRIVERS: &str = "/sys/bus/pci/drivers";
/// How long loading a module may take.
const MODPROBE_WAIT: Duration = Duration::from_secs(3);

impl Run<'_> {
    /// Has a unit load the driver for VMs, which PVE would do as well.
    pub(super) fn load_vfio(&self) -> Result<(), NoBinding> {
        let is_there = || self.host.files.exists(&format!("{DRIVERS}/{VFIO}"));
        if is_there() {
            return Ok(());
        }
        let wait = MODPROBE_WAIT.min(self.host.left());
        let job = Job {
            unit: "pin-hook-modprobe.service".to_owned(),
            description: "pin-hook: load the driver that devices of vms need".to_owned(),
            path: "/sbin/modprobe".to_owned(),
            arguments: vec![VFIO.to_owned()],
            limit: Some(wait),
            spares: false,
        };
        let failed = |error: anyhow::Error| NoBinding::NoDriver(format!("{}: {error:#}", job.unit));
        self.host.systemd.run(&job).map_err(failed)?;
        match self.host.wait_until(wait, PAUSE, is_there) {
            true => Ok(()),
            false => Err(NoBinding::NoDriver(format!(
                "modprobe {VFIO} did not load it"
            ))),
        }
    }

    /// Has a child take a function from the driver that it has, and give it to another one; `""` to
    /// none.
    pub(super) fn give_driver(
        &self,
        address: &str,
        driver: &str,
        wait: Duration,
    ) -> io::Result<()> {
        let unbind = Write::new(format!("{DEVICES}/{address}/driver/unbind"), address);
        let bind = Write::new(format!("{DRIVERS}/{driver}/bind"), address);
        let had = pci::driver(&*self.host.files, address);
        let unbinds = had.map(|_| unbind).into_iter();
        let binds = (!driver.is_empty()).then_some(bind).into_iter();
        let writes: Vec<Write> = unbinds.chain(binds).collect();
        if writes.is_empty() {
            return Ok(());
        }
        at_work::of_function(address, writes).complete(self.host, wait)
    }
}
