//! What is prepared once per boot, before PVE starts guests.

use super::snippet;
use crate::domain::state::Record;
use crate::domain::target::{Target, Value};
use crate::host::table::read_table;
use crate::host::target::{read, write};
use crate::host::trouble::cannot;
use crate::host::{Host, pve};
use crate::lifecycle::engine::account::{Account, Exit};
use crate::lifecycle::engine::journal::{Journal, busy};
use crate::lifecycle::engine::recover;
use crate::lifecycle::engine::run::PATIENT_TIME;
use crate::lifecycle::engine::work::work_and_tell;

/// Delegates the scopes of all VMs with a table, by one reload of systemd instead of one for each
/// start; brings the snippet up to date, and tells the other nodes that pin-hook is here.
///
/// The drop-ins are in `/run`: they stay until the next boot, so that a scope is delegated from
/// its first moment on.
pub fn boot(host: &Host) -> Account {
    let mut account = Account::default();
    if let Err(error) = delegate_all(host, &mut account) {
        account.fail_by("", &error);
    }
    if let Err(error) = snippet::prepare_node(host, &mut account) {
        account.fail_by("", &error);
    }
    account
}

/// Writes the drop-ins that are missing, and has systemd read them; when it does not, that stays
/// due for every later run.
fn delegate_all(host: &Host, account: &mut Account) -> anyhow::Result<()> {
    host.allow(PATIENT_TIME);
    // Also makes the state directory, so that starting a VM leaves no new one behind.
    let (mut journal, told) = recover::open(host)?.ok_or_else(|| busy(&*host.files))?;
    account.warn_all(told);
    let n_written = write_drop_ins(host, &mut journal)?;
    let needs_reload = journal.state().needs_reload;
    drop(journal);
    if needs_reload {
        let state = work_and_tell(host, account, |_| Ok(Vec::new()))?;
        if state.ok_or_else(|| busy(&*host.files))?.needs_reload {
            let text = "systemd has not loaded the drop-ins of the vms' scopes";
            let help = "pin-hook boot tries again, and so does every start of a vm";
            account.fail(Exit::Refused, text, help);
        }
    }
    if n_written > 0 {
        account.info(format!("scopes delegated: {n_written}"));
    }
    Ok(())
}

fn write_drop_ins(host: &Host, journal: &mut Journal<'_>) -> anyhow::Result<usize> {
    let mut n_written = 0;
    for vmid in pve::vms_of_node(&*host.files)? {
        let has_table = read_table(&*host.files, vmid).is_ok_and(|table| table.is_some());
        let target = Target::Delegation(vmid);
        let live = read(host, &target)?;
        if has_table && live != Value::Present {
            if n_written == 0 {
                journal.append(vec![Record::Reload(true)])?;
            }
            write(host, &target, &live, &Value::Present)
                .map_err(cannot("write", &target.path()))?;
            n_written += 1;
        }
    }
    Ok(n_written)
}
