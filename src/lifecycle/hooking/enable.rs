//! Enabling a VM: from its next start on PVE calls pin-hook for it.
//!
//! Everything that may be wrong is found before the first step. PVE's own program changes the
//! VM's config; when it refuses, what was done before is taken back, and only that.

use super::snippet;
use super::step::{Step, hook_of};
use crate::domain::claim::Claim;
use crate::domain::enabling::{EnableRefusal, Reason, lacks};
use crate::domain::guest::Guest;
use crate::domain::nothing::Nothing;
use crate::domain::storage::{Snippet, Storage, choose, remedy, suggest};
use crate::domain::target::{Target, Value};
use crate::domain::vm::Vmid;
use crate::domain::words::few;
use crate::host::clock::awaiting;
use crate::host::programs::Programs;
use crate::host::target::read;
use crate::host::{Host, cluster, pve, record};
use crate::lifecycle::case::nothing::look_up;
use crate::lifecycle::case::resolve::read_case;
use crate::lifecycle::case::texts::{CaseError, Found};
use crate::lifecycle::engine::account::{Account, Exit, Level};
use crate::lifecycle::engine::advice::help_for;
use crate::lifecycle::engine::journal::read_state;

/// One enabling or disabling of a VM.
#[derive(Debug)]
pub struct Hooking<'h> {
    /// The host.
    pub host: &'h Host,
    /// How PVE is asked to change the VM's config.
    pub programs: &'h dyn Programs,
    /// Which VM.
    pub vmid: Vmid,
    /// Whether it is only shown what would be done.
    pub is_dry: bool,
}

/// What is to be done for a VM, and what there is to be said.
struct Plan {
    steps: Vec<Step>,
    storage: Storage,
    found: snippet::Found,
    table: String,
    former: Option<Snippet>,
}

/// Error of which the caller knows by its type what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum HookingError {
    /// It must not be done.
    #[error(transparent)]
    Refused(#[from] EnableRefusal),
    /// The table is wrong.
    #[error("vm {0}: {1}")]
    Case(Vmid, CaseError),
    /// The record of the hookscript that the VM had cannot be used.
    #[error("{1:#}")]
    Record(Vmid, anyhow::Error),
    /// What was done before it went wrong could not be taken back.
    #[error("{error:#}; undoing it failed too: {undo:#}")]
    HalfDone {
        /// Which VM.
        vmid: Vmid,
        /// What went wrong.
        error: anyhow::Error,
        /// What kept it from being taken back.
        undo: anyhow::Error,
    },
    /// It went wrong when the VM had the hookscript, so nothing was taken back.
    #[error("{error:#}; vm {vmid} has the hookscript {hook} anyway")]
    Hooked {
        /// Which VM.
        vmid: Vmid,
        /// What its config names.
        hook: Snippet,
        /// What went wrong.
        error: anyhow::Error,
    },
    /// Something else went wrong.
    #[error("{0:#}")]
    Other(anyhow::Error),
}

impl From<anyhow::Error> for HookingError {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<EnableRefusal>() {
            Ok(refusal) => HookingError::Refused(refusal),
            Err(error) => HookingError::Other(error),
        }
    }
}

impl From<Nothing> for HookingError {
    fn from(why: Nothing) -> Self {
        HookingError::Refused(why.into())
    }
}

impl HookingError {
    /// Adds the error and what can be done about it to the account.
    pub fn tell(&self, account: &mut Account) {
        let (exit, help) = match self {
            HookingError::Refused(refusal) => (Exit::Refused, refusal.help()),
            HookingError::Case(_, error @ CaseError::Other(_)) => (Exit::Refused, error.help()),
            HookingError::Case(_, error) => (Exit::Usage, error.help()),
            HookingError::Record(vmid, _) => {
                let path = record::former_path(*vmid);
                let help =
                    format!("remove {path} if the hookscript it should name is no longer needed");
                (Exit::Refused, help)
            }
            HookingError::HalfDone { vmid, .. } => {
                let help = format!("pin-hook disable {vmid} removes what is left");
                (Exit::Incomplete, help)
            }
            HookingError::Hooked { vmid, .. } => {
                let help = format!(
                    "pin-hook enable {vmid} continues with it, pin-hook disable {vmid} undoes it"
                );
                (Exit::Incomplete, help)
            }
            HookingError::Other(error) => (Exit::Refused, help_for(error)),
        };
        account.fail(exit, self.to_string(), help);
    }
}

impl Hooking<'_> {
    /// Has PVE call pin-hook for the VM from its next start on.
    pub fn enable(&self) -> Account {
        let mut account = Account::default();
        if let Err(error) = self.try_enable(&mut account) {
            error.tell(&mut account);
        }
        account
    }

    fn try_enable(&self, account: &mut Account) -> Result<(), HookingError> {
        let plan = self.plan()?;
        self.name_what_is_missing_elsewhere(&plan, account)?;
        for (n_done, step) in plan.steps.iter().enumerate() {
            if let Err(error) = self.step(step, account) {
                return Err(self.take_back(&plan, n_done, error, account));
            }
        }
        if !self.is_dry {
            snippet::prepare_node(self.host, account)?;
        }
        self.conclude(&plan, account)
    }

    /// Does one step, or shows what it would do.
    ///
    /// What only prepares is no reason to stop half way: a start does it again, and so does a boot.
    pub(in crate::lifecycle) fn step(
        &self,
        step: &Step,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let done = match self.is_dry {
            true => Ok(!step.is_done(self.host)),
            false => {
                let _wait = awaiting(&*self.host.clock, &step.in_words());
                step.work(self.host, self.programs)
            }
        };
        match done {
            Ok(true) => account.info(step.describe(self.is_dry)),
            Ok(false) => {}
            Err(error) if step.only_prepares() => account.warn(format!("{error:#}")),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn plan(&self) -> Result<Plan, HookingError> {
        let (guest, text) = self.guest()?;
        let table = self.table()?;
        let storages = cluster::storages(&*self.host.files)?;
        let ours = guest.hookscript.as_deref().and_then(our_snippet);
        let storage = self.storage(&storages, ours.as_ref())?;
        let (path, found) = snippet::place(&*self.host.files, storage)?;
        let former = match (&ours, &guest.hookscript) {
            (Some(_), _) => self.former()?,
            (None, Some(volume)) => Some(self.usable(&storages, volume)?),
            (None, None) => None,
        };
        let mut steps = Vec::new();
        if let (None, Some(lock)) = (&ours, guest.lock) {
            let vmid = self.vmid;
            return Err(EnableRefusal::Locked { vmid, lock }.into());
        }
        if ours.is_none() {
            // Of an earlier time: a hook that the VM has no more must not be called again.
            let is_known = self.host.files.exists(&record::former_path(self.vmid));
            steps.extend(is_known.then_some(Step::Forget(self.vmid)));
            steps.push(Step::Save(self.vmid, text));
            let hook = former.clone().map(|hook| Step::Record(self.vmid, hook));
            steps.extend(hook);
        }
        if found != snippet::Found::Current {
            steps.push(Step::Put(path));
        }
        if ours.is_none() {
            steps.push(Step::Hook(self.vmid, Some(storage.snippet())));
        }
        if read(self.host, &Target::Delegation(self.vmid)).map_err(anyhow::Error::from)?
            != Value::Present
        {
            steps.push(Step::Delegate(self.vmid, true));
        }
        steps.push(Step::Boot);
        Ok(Plan {
            steps,
            storage: storage.clone(),
            found,
            table,
            former,
        })
    }

    /// Returns the storage that the snippet is in, or is to be put into.
    fn storage<'s>(
        &self,
        storages: &'s [Storage],
        ours: Option<&Snippet>,
    ) -> Result<&'s Storage, HookingError> {
        let node = pve::node_name(&*self.host.files)?;
        let storage = match ours {
            Some(snippet) => storages.iter().find(|one| one.id == snippet.storage),
            None => choose(storages, &node),
        };
        let storage = storage.ok_or_else(|| match ours {
            Some(snippet) => EnableRefusal::LostStorage {
                vmid: self.vmid,
                storage: snippet.storage.clone(),
            },
            None => EnableRefusal::NoSnippets {
                remedy: remedy(storages, &node),
            },
        })?;
        self.check_shared(storage, storages, &node)?;
        Ok(storage)
    }

    /// Returns the VM, and the text of its config.
    fn guest(&self) -> Result<(Guest, String), HookingError> {
        let vm = look_up(&*self.host.files, self.vmid, "")?.vm()?;
        // A hookscript that the next start deletes is none.
        Ok((vm.conf.guest_of_next_start(), vm.text))
    }

    /// Returns the hookscript that is recorded for the VM.
    pub(in crate::lifecycle) fn former(&self) -> Result<Option<Snippet>, HookingError> {
        record::former(&*self.host.files, self.vmid)
            .map_err(|error| HookingError::Record(self.vmid, error))
    }

    /// Returns where the VM's table is, if it can be used.
    fn table(&self) -> Result<String, HookingError> {
        match read_case(self.host, self.vmid, "") {
            Ok(Found::Case(case)) => Ok(case.table_path),
            Ok(Found::Nothing(why)) => Err(why.into()),
            Err(error) => Err(HookingError::Case(self.vmid, error)),
        }
    }

    /// A snippet that other nodes see is called there too, and does nothing without the program.
    fn check_shared(
        &self,
        storage: &Storage,
        storages: &[Storage],
        own: &str,
    ) -> Result<(), EnableRefusal> {
        let files = &*self.host.files;
        if !storage.is_shared {
            return Ok(());
        }
        let nodes = cluster::nodes(files)
            .into_iter()
            .filter(|node| node != own && storage.is_on(node))
            .filter(|node| cluster::announced(files, node).is_none());
        let nodes: Vec<String> = nodes.collect();
        match nodes.is_empty() {
            true => Ok(()),
            false => Err(EnableRefusal::Shared {
                storage: storage.id.clone(),
                nodes,
                remedy: suggest(storages, own)
                    .filter(|one| !one.is_shared)
                    .map(Storage::remedy),
            }),
        }
    }

    /// Returns the hookscript that the VM has, if it can be called from now on.
    fn usable(&self, storages: &[Storage], volume: &str) -> Result<Snippet, EnableRefusal> {
        let found = snippet::callable(&*self.host.files, storages, volume);
        found
            .map(|(hook, _)| hook)
            .map_err(|fault| EnableRefusal::BrokenHook {
                vmid: self.vmid,
                volume: volume.to_owned(),
                fault,
            })
    }

    fn name_what_is_missing_elsewhere(
        &self,
        plan: &Plan,
        account: &mut Account,
    ) -> anyhow::Result<()> {
        let files = &*self.host.files;
        let own = pve::node_name(files)?;
        let places = cluster::destinations(files, self.vmid, &own)?;
        let hook = plan.storage.snippet();
        for elsewhere in lacks(places, &hook, plan.storage.is_shared, &plan.table) {
            let (vmid, nodes, lack) = (self.vmid, few(&elsewhere.nodes), &elsewhere.lack);
            account.warn(match elsewhere.reason {
                Reason::Ha => format!("ha may start vm {vmid} on {nodes}, where {lack}"),
                Reason::Replication => format!("vm {vmid} is replicated to {nodes}, where {lack}"),
            });
            account.say(Level::Help, elsewhere.help());
        }
        Ok(())
    }

    /// Takes back the first steps, those that were done; nothing when the VM has the hookscript.
    ///
    /// PVE may have set it before what it was asked for went wrong, or it was set before: then
    /// what is recorded is needed.
    fn take_back(
        &self,
        plan: &Plan,
        n_done: usize,
        error: anyhow::Error,
        account: &mut Account,
    ) -> HookingError {
        let vmid = self.vmid;
        let hook = match hook_of(self.host, vmid) {
            Ok(hook) => hook.as_deref().and_then(our_snippet),
            Err(undo) => return HookingError::HalfDone { vmid, error, undo },
        };
        if let Some(hook) = hook {
            return HookingError::Hooked { vmid, hook, error };
        }
        match self.undo(plan, &plan.steps[..n_done]) {
            Ok(()) => {
                if n_done > 0 {
                    account.info(format!("took this back: vm {vmid} is as it was before"));
                }
                error.into()
            }
            Err(undo) => HookingError::HalfDone { vmid, error, undo },
        }
    }

    fn undo(&self, plan: &Plan, done: &[Step]) -> anyhow::Result<()> {
        let files = &*self.host.files;
        // Whatever was remembered before is forgotten when the config is saved. What cannot be undone keeps
        // nothing else from it.
        let forgotten = match done.iter().any(|step| matches!(step, Step::Save(..))) {
            true => record::forget(files, self.vmid),
            false => Ok(()),
        };
        let is_put = done.iter().any(|step| matches!(step, Step::Put(_)));
        if is_put && plan.found == snippet::Found::Nothing {
            let storages = std::slice::from_ref(&plan.storage);
            snippet::remove_unused(files, storages, &plan.storage.snippet(), self.vmid)?;
        }
        forgotten
    }

    fn conclude(&self, plan: &Plan, account: &mut Account) -> Result<(), HookingError> {
        let vmid = self.vmid;
        if let Some(hook) = &plan.former {
            let text = format!("vm {vmid}: {hook} stays in use, called by pin-hook");
            account.info(text);
        }
        if self.is_dry {
            account.info(format!("vm {vmid}: nothing was changed"));
            return Ok(());
        }
        let claims = read_state(&*self.host.files)?.claims;
        let owns = claims.get(&vmid).is_some_and(Claim::owns);
        let runs = !owns && pve::running(&*self.host.files, vmid)?.is_some();
        account.info(match runs {
            true => format!(
                "vm {vmid} is enabled; this takes effect at its next start; run \
                 pin-hook apply {vmid} to apply it now"
            ),
            false => format!("vm {vmid} is enabled; this takes effect at its next start"),
        });
        Ok(())
    }
}

/// Returns the snippet if it is pin-hook's own.
pub(in crate::lifecycle) fn our_snippet(volume: &str) -> Option<Snippet> {
    volume.parse().ok().filter(Snippet::is_ours)
}
