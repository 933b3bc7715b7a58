//! Frequencies of cpufreq policies. The plain file of a limit holds what was asked for (`freq_qos`), and shows
//! what the driver makes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::State;

const LIMITS: [&str; 2] = ["scaling_max_freq", "scaling_min_freq"];

/// What the kernel has not applied yet: until when each limit shows another value.
#[derive(Debug, Clone, Default)]
pub struct Cpufreq {
    /// How long the kernel takes to apply a limit.
    pub lag: Duration,
    shown: BTreeMap<String, (String, Duration)>,
}

impl State {
    /// Returns what the limit of a policy shows, when `path` is one and the hardware is known.
    pub fn frequency_read(&self, path: &str) -> Option<String> {
        let (dir, name) = limit_of(path)?;
        if let Some((text, until)) = self.cpufreq.shown.get(path)
            && self.since_boot < *until
        {
            return Some(text.clone());
        }
        let most = self.frequency(&format!("{dir}/cpuinfo_max_freq"))?;
        let least = self.frequency(&format!("{dir}/cpuinfo_min_freq"));
        let cut = |khz: u32| khz.min(most).max(least.unwrap_or(0));
        let asked = self.frequency(path)?;
        let limit = match name {
            "scaling_max_freq" => self.step(dir, cut(asked), false),
            _ => {
                let max = format!("{dir}/scaling_max_freq");
                let max = self.frequency(&max).map_or(most, cut);
                let max = self.step(dir, max, false);
                self.step(dir, cut(asked).min(max), true).min(max)
            }
        };
        Some(format!("{limit}\n"))
    }

    /// Has a limit show for a moment what it showed before it is written.
    pub fn delay_frequency(&mut self, path: &str) {
        let until = self.since_boot + self.cpufreq.lag;
        if let Some(text) = self.frequency_read(path) {
            let shown = (text, until);
            self.cpufreq.shown.insert(path.to_owned(), shown);
        }
    }

    /// Returns the step that a frequency is rounded to, where the driver has steps (`__resolve_freq()`).
    fn step(&self, dir: &str, khz: u32, is_up: bool) -> u32 {
        let steps = self
            .tree
            .read(&format!("{dir}/scaling_available_frequencies"));
        let steps = steps.unwrap_or_default();
        let steps = steps
            .split_whitespace()
            .filter_map(|step| step.parse().ok());
        let step = match is_up {
            true => steps.filter(|step| *step >= khz).min(),
            false => steps.filter(|step| *step <= khz).max(),
        };
        step.unwrap_or(khz)
    }

    fn frequency(&self, path: &str) -> Option<u32> {
        self.tree.read(path).ok()?.trim().parse().ok()
    }
}

fn limit_of(path: &str) -> Option<(&str, &str)> {
    path.rsplit_once('/')
        .filter(|(_, name)| LIMITS.contains(name))
}
