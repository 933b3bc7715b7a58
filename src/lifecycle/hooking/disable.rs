//! Disabling a VM: it is as it was before it was enabled, and nothing of it is left.

use super::enable::{Hooking, HookingError, our_snippet};
use super::snippet::{self, Fate, User};
use super::step::Step;
use crate::domain::enabling::EnableRefusal;
use crate::domain::nothing::Nothing;
use crate::domain::storage::Snippet;
use crate::domain::target::{Target, Value};
use crate::host::target::read;
use crate::host::{cluster, pve, record};
use crate::lifecycle::case::known::{Known, known};
use crate::lifecycle::case::nothing::{There, look_up};
use crate::lifecycle::engine::account::{Account, Exit, Level};
use crate::lifecycle::engine::journal::read_state;
use crate::lifecycle::engine::look::{Hidden, is_denied};
use crate::lifecycle::engine::run::{Caller, PATIENT_TIME, Run};

impl Hooking<'_> {
    /// Gives the VM back the hookscript that it had, if it had one, and removes what enabling it
    /// has left; a VM that owns CPUs lets go of them.
    pub fn disable(&self, caller: Caller) -> Account {
        let mut account = Account::default();
        if let Err(error) = self.try_disable(caller, &mut account) {
            error.tell(&mut account);
        }
        account
    }

    fn try_disable(&self, caller: Caller, account: &mut Account) -> Result<(), HookingError> {
        let files = &*self.host.files;
        let vmid = self.vmid;
        let is_here = self.is_here()?;
        let guest = match is_here {
            true => pve::guest_of(&*self.host.files, vmid, "")?,
            false => None,
        };
        let lock = guest.as_ref().and_then(|guest| guest.lock.clone());
        let hook = guest.and_then(|guest| guest.hookscript);
        let ours = hook.as_deref().and_then(our_snippet);
        // PVE would refuse the change when the VM has given its CPUs back already.
        if let (Some(_), Some(lock)) = (&ours, lock) {
            return Err(EnableRefusal::Locked { vmid, lock }.into());
        }
        // First, and what is remembered last: what ends in between is done by the next disabling.
        if !self.let_go(caller, account)? {
            let help = format!(
                "the hookscript of vm {vmid} is unchanged: pin-hook disable {vmid} tries again"
            );
            account.say(Level::Help, help);
            return Ok(());
        }
        let n_said = account.lines.len();
        if ours.is_some() {
            let former = self.former_to_give_back(account)?;
            self.step(&Step::Hook(vmid, former), account)?;
        }
        if read(self.host, &Target::Delegation(vmid)).is_ok_and(|live| live != Value::Absent) {
            self.step(&Step::Delegate(vmid, false), account)?;
        }
        let remembered = [record::saved_path(vmid), record::former_path(vmid)];
        let is_remembered = remembered.iter().any(|path| files.exists(path));
        let left = self.snippets_left(ours.as_ref(), is_remembered)?;
        for snippet in &left {
            self.remove_snippet(snippet, account)?;
        }
        if !self.is_dry && !left.is_empty() {
            snippet::prepare_node(self.host, account)?;
        }
        if is_remembered {
            self.step(&Step::Forget(vmid), account)?;
        }
        if !is_here && account.lines.is_empty() {
            return Err(Nothing::NoVm(vmid).into());
        }
        account.info(match (self.is_dry, is_here && ours.is_none()) {
            (true, _) if account.lines.len() > n_said => format!("vm {vmid}: nothing was changed"),
            (true, false) => format!("vm {vmid}: nothing was changed"),
            (_, true) => format!("vm {vmid} does not have the hookscript of pin-hook"),
            (false, false) if !is_here => format!(
                "vm {vmid} has no config on this node: if it comes back with the hookscript, run \
                 pin-hook disable {vmid} again"
            ),
            (false, false) => format!("vm {vmid} is disabled"),
        });
        Ok(())
    }

    /// Returns the hookscript that the VM is to have again; PVE would refuse one that is not there.
    fn former_to_give_back(&self, account: &mut Account) -> Result<Option<Snippet>, HookingError> {
        let files = &*self.host.files;
        let vmid = self.vmid;
        let Some(hook) = self.former()? else {
            return Ok(None);
        };
        let storages = cluster::storages(files)?;
        match snippet::callable(files, &storages, &hook.to_string()) {
            Ok(_) => Ok(Some(hook)),
            Err(fault) => {
                account.warn(format!(
                    "cannot give vm {vmid} its hookscript {hook} back: {fault}"
                ));
                let mend = fault.help();
                let help = format!("{mend}, then qm set {vmid} --hookscript {hook}");
                account.say(Level::Help, help);
                Ok(None)
            }
        }
    }

    /// Tells whether this node has the VM; one that is destroyed may have left something.
    fn is_here(&self) -> Result<bool, HookingError> {
        match look_up(&*self.host.files, self.vmid, "")? {
            There::Vm(_) | There::Template(_) => Ok(true),
            There::Nothing(Nothing::NoVm(_)) => Ok(false),
            There::Nothing(why) => Err(why.into()),
        }
    }

    /// Lets go of the CPUs that the VM owns; tells whether that came to its end.
    fn let_go(&self, caller: Caller, account: &mut Account) -> anyhow::Result<bool> {
        let claims = match read_state(&*self.host.files) {
            Err(error) if self.is_dry && is_denied(&error) => {
                let text = format!("what vm {} owns is not known: {Hidden}", self.vmid);
                account.info(text);
                return Ok(true);
            }
            state => state?.claims,
        };
        // Whose CPUs those are that nobody remembers is not known.
        let is_lost = matches!(known(self.host), Ok(Known::Rebuilt(_)));
        if !claims.contains_key(&self.vmid) && !is_lost {
            return Ok(true);
        }
        if self.is_dry {
            account.info(format!("would release what vm {} owns", self.vmid));
            return Ok(true);
        }
        let run = Run::begin(self.host, caller, PATIENT_TIME);
        let released = run.release(Some(self.vmid));
        let is_done = released.exit == Exit::Done;
        account.absorb(released);
        Ok(is_done)
    }

    /// Returns the snippets that enabling the VM may have left: the one that it names, or when it
    /// names none any more and was enabled here, those that this node has.
    fn snippets_left(
        &self,
        ours: Option<&Snippet>,
        is_remembered: bool,
    ) -> anyhow::Result<Vec<Snippet>> {
        let files = &*self.host.files;
        if ours.is_some() || !is_remembered {
            return Ok(ours.into_iter().cloned().collect());
        }
        let announced = cluster::announced(files, &pve::node_name(files)?).unwrap_or_default();
        let volumes = announced.snippets;
        let storages = cluster::storages(files)?;
        let is_there = |one: &Snippet| one.file(&storages).is_some_and(|path| files.exists(&path));
        let ours = volumes.iter().filter_map(|volume| our_snippet(volume));
        Ok(ours.filter(is_there).collect())
    }

    /// Removes the snippet unless somebody needs it or it is not ours; a dry run only says so.
    fn remove_snippet(&self, snippet: &Snippet, account: &mut Account) -> anyhow::Result<()> {
        let files = &*self.host.files;
        let storages = cluster::storages(files)?;
        let fate = match self.is_dry {
            true => snippet::fate(files, &storages, snippet, self.vmid)?,
            false => snippet::remove_unused(files, &storages, snippet, self.vmid)?,
        };
        let [keep, leave, remove] = match self.is_dry {
            true => ["would keep", "would leave", "would remove"],
            false => ["kept", "left", "removed"],
        };
        match fate {
            Fate::Absent => {}
            Fate::Used(users) => {
                account.info(format!("{keep} the snippet {snippet}: {}", in_use(&users)));
            }
            Fate::Foreign(path) => {
                account.info(format!("{leave} {path}: it is not the snippet of pin-hook"));
            }
            Fate::Removed(_) => account.info(format!("{remove} the snippet {snippet}")),
        }
        Ok(())
    }
}

/// Says who names a snippet still; the VM itself when one of its snapshots does.
fn in_use(users: &[User]) -> String {
    let names: Vec<String> = users.iter().map(ToString::to_string).collect();
    let verb = if names.len() == 1 { "names" } else { "name" };
    format!("{} {verb} it", names.join(" and "))
}
