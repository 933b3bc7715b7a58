//! Notifications through PVE, where the settings of the host ask for them.
//!
//! A unit of its own sends them, so that nothing of it can keep a phase waiting, or fail it: who may be sent to, and
//! how long that takes, is PVE's affair.

use std::time::Duration;

use crate::domain::alert::{Told, notification};
use crate::host::Host;
use crate::host::systemd::Job;
use crate::host::trouble::cannot;
use crate::lifecycle::case::texts::read_settings;
use crate::lifecycle::engine::account::Account;
use crate::lifecycle::engine::journal::state_dir::make_state_dir;
use crate::lifecycle::engine::run::Run;

/// The program that hands a notification to PVE.
const PROGRAM: &str = "/usr/libexec/pin-hook/notify";
/// What was told of, and when.
const TOLD: &str = "/run/pin-hook/notified";
/// How long systemd may take to begin it where PVE waits for the run.
pub(super) const PHASE_WAIT: Duration = Duration::from_millis(500);
/// The same where nothing waits.
pub(super) const PATIENT_WAIT: Duration = Duration::from_secs(10);
/// How long sending may take: a mail server may be slow.
const SEND_TIME: Duration = Duration::from_secs(5 * 60);

impl Run<'_> {
    /// Has PVE notify an admin of what happened in this run: the last thing that it does, for which it has `wait`.
    pub(super) fn notify(&self, account: &mut Account, wait: Duration) {
        let alerts = std::mem::take(&mut account.alerts);
        if alerts.is_empty() || !read_settings(self.host).is_ok_and(|settings| settings.notify) {
            return;
        }
        let now = self.host.clock.since_boot();
        let text = self.host.files.read(TOLD).unwrap_or_default();
        let mut told = Told::parse(&text);
        let Some(words) = notification(&told.fresh(alerts, now)) else {
            return;
        };
        // What could not be remembered would be told again by every run.
        let sent = remember(self.host, &told).and_then(|()| {
            self.host.allow(wait);
            self.host.systemd.run(&job(words, now))
        });
        if let Err(error) = sent {
            account.warn(format!("pve cannot be notified: {error:#}"));
        }
    }
}

fn remember(host: &Host, told: &Told) -> anyhow::Result<()> {
    make_state_dir(&*host.files)?;
    let written = host.files.replace(TOLD, &told.to_text(), 0o600);
    written.map_err(cannot("write", TOLD))
}

/// systemd takes a dollar sign for a variable, and two of them for one (`replace_env_argv()`).
fn job(words: Vec<String>, now: Duration) -> Job {
    let plain = words.iter().map(|word| word.replace('$', "$$"));
    Job {
        unit: format!("pin-hook-notify-{}.service", now.as_millis()),
        description: "pin-hook: notify an admin through pve".to_owned(),
        path: PROGRAM.to_owned(),
        arguments: plain.collect(),
        limit: Some(SEND_TIME),
        spares: false,
    }
}
