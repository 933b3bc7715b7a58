//! What a plan says of devices.

use super::answer::Plan;
use crate::domain::pci::binding::lent;
use crate::domain::refusal::Refusal;
use crate::domain::state::State;
use crate::lifecycle::case::texts::Case;
use crate::lifecycle::engine::inventory::Devices;
use crate::lifecycle::engine::inventory::besides::other_things;
use crate::lifecycle::engine::run::Run;
use crate::lifecycle::start::preparing::{Preparation, wanted};

impl Run<'_> {
    /// Looks at the devices of the VM. What speaks against them refuses a start only where the
    /// table has pin-hook touch them: PVE itself would start the VM.
    pub(super) fn plan_devices(
        &self,
        case: &Case,
        state: &State,
        plan: &mut Plan,
    ) -> Result<Devices, Refusal> {
        let leaving = &case.table.yields.stop;
        let devices = Devices::read(self.host, case.vmid, &case.guest, leaving);
        plan.devices = devices.rows();
        plan.notices.extend(other_things(self.host, &case.guest));
        if !devices.can_be_judged(&case.guest) {
            let text = "devices are not judged: this host shows no pci devices";
            plan.left_out.push(text.to_owned());
            return Ok(Devices::default());
        }
        if !plan.running {
            let Preparation { bindings, resets } =
                wanted(self.host, &case.table, &devices, &lent(state))?;
            for (address, binding) in bindings {
                let (key, words) = (&binding.key, binding.in_words());
                let model = devices.bus.get(&address).map_or("", |one| &one.model);
                let advice = binding.at_boot(&address, model);
                match binding.in_vain(&address) {
                    Some(text) => plan.warnings.push(text),
                    None => plan.notices.push(format!(
                        "{key} ({address}) is bound to vfio-pci before the start{words}"
                    )),
                }
                plan.notices.extend(advice);
            }
            for (address, way) in resets {
                let (key, way) = (&way.key, way.in_words());
                let text = format!("{key} ({address}) is reset before the start ({way})");
                plan.notices.push(text);
            }
        }
        plan.warnings.extend(devices.warnings(case.vmid));
        Ok(devices)
    }
}
