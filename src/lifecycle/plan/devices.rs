//! What a plan says of devices.

use super::Plan;
use crate::domain::refusal::Refusal;
use crate::lifecycle::devices::{Devices, other_things};
use crate::lifecycle::phase::Run;
use crate::lifecycle::resolve::{Case, Resolved};

impl Run<'_> {
    /// Looks at the devices of the VM. What speaks against them refuses a start only where the
    /// table has pin-hook touch them: PVE itself would start the VM.
    pub(super) fn plan_devices(&self, case: &Case, plan: &mut Plan) -> Result<Devices, Refusal> {
        let leaving = &case.table.yields.stop;
        let devices = Devices::read(self.host, case.vmid, &case.guest, leaving);
        plan.devices = devices.rows();
        plan.notices.extend(other_things(self.host, &case.guest));
        if devices.bus.is_empty() && !case.guest.hostpci.is_empty() {
            let text = "devices are not judged: this host shows no pci devices";
            plan.left_out.push(text.to_owned());
            return Ok(Devices::default());
        }
        if case.table.pci.touches_devices() && !plan.running {
            devices.check()?;
        }
        plan.warnings.extend(devices.warnings());
        Ok(devices)
    }
}

impl Plan {
    /// Tells which devices are far from the CPUs and the memory of the VM.
    pub(super) fn tell_far(
        &mut self,
        run: &Run<'_>,
        devices: &Devices,
        case: &Case,
        resolved: &Resolved,
    ) {
        let (cpus, topology) = (&resolved.wishes.cpus, &resolved.topology);
        let far = devices.far(&*run.host.files, cpus, &case.guest, topology);
        self.warnings.extend(far);
    }
}
