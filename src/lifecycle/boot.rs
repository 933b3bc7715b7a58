//! What is prepared once per boot, before PVE starts guests.

use super::account::Account;
use super::journal::{Journal, busy};
use super::snippet;
use crate::domain::target::{Target, Value};
use crate::host::table::read_table;
use crate::host::target::{read, write};
use crate::host::trouble::cannot;
use crate::host::{Host, pve};

/// Delegates the scopes of all VMs with a table, by one reload of systemd instead of one for each
/// start; brings the snippet up to date, and tells the other nodes that pin-hook is here.
///
/// The drop-ins are in `/run`: they stay until the next boot, so that a scope is delegated from
/// its first moment on.
pub fn boot(host: &Host) -> Account {
    let mut account = Account::default();
    match delegate_all(host) {
        Ok(0) => {}
        Ok(n) => account.info(format!("scopes delegated: {n}")),
        Err(error) => account.fail_by("", &error),
    }
    let files = &*host.files;
    let prepared = pve::node_name(files).and_then(|node| snippet::prepare_node(files, &node));
    if let Err(error) = prepared {
        account.warn(format!("the snippet is not up to date: {error:#}"));
    }
    account
}

fn delegate_all(host: &Host) -> anyhow::Result<usize> {
    // Also makes the state directory, so that starting a VM leaves no new one behind.
    drop(Journal::open(&*host.files)?.ok_or_else(busy)?);
    let mut n_written = 0;
    for vmid in pve::vms_of_node(&*host.files)? {
        let has_table = read_table(&*host.files, vmid).is_ok_and(|table| table.is_some());
        let target = Target::Delegation(vmid);
        let live = read(host, &target)?;
        if has_table && live != Value::Present {
            write(host, &target, &live, &Value::Present)
                .map_err(cannot("write", &target.path()))?;
            n_written += 1;
        }
    }
    if n_written > 0 {
        host.systemd.reload()?;
    }
    Ok(n_written)
}
