//! What an admin is notified of through PVE, and when the same is told again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::vm::Vmid;
use super::words::count;

/// Events that are told of in one notification; more are counted.
const MOST: usize = 20;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A start was refused, or went on without what the table says.
    Start,
    /// Something that is looked after is not as it should be, and stays like that.
    State,
}

/// Something that an admin wants to know who is not looking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// What happened.
    pub kind: Kind,
    /// VM that it is about, if it is about one.
    pub vmid: Option<Vmid>,
    /// Whether something was not done, and not only done in another way.
    pub is_error: bool,
    /// What tells this event from others, in one line.
    pub key: String,
    /// What happened, in a few words.
    pub title: String,
    /// What was said of it.
    pub text: String,
    /// What can be done about it.
    pub help: String,
}

impl Alert {
    /// Returns how long the same is not told again: what stays as it is, is met by every run.
    fn period(&self) -> Duration {
        match self.kind {
            Kind::Start => Duration::from_secs(10 * 60),
            Kind::State => Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// When something was told of last, by its key, since boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told(BTreeMap<String, Duration>);

impl Told {
    /// Reads what [`Told::to_text`] has written; other lines are dropped.
    pub fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (seconds, key) = line.split_once(' ')?;
            let at = Duration::from_secs(seconds.parse().ok()?);
            Some((key.to_owned(), at))
        };
        Told(text.lines().filter_map(line).collect())
    }

    /// Returns it as lines of text.
    pub fn to_text(&self) -> String {
        let lines = self.0.iter();
        let lines = lines.map(|(key, at)| format!("{} {key}\n", at.as_secs()));
        lines.collect()
    }

    /// Returns those that were not told of late, each once, and takes note that they are told now. What is too long ago
    /// to matter is forgotten.
    pub fn fresh(&mut self, alerts: Vec<Alert>, now: Duration) -> Vec<Alert> {
        let longest = Duration::from_secs(24 * 60 * 60);
        self.0.retain(|_, at| now.saturating_sub(*at) < longest);
        let mut is_fresh = |alert: &Alert| {
            let at = self.0.get(&alert.key);
            let is_due = at.is_none_or(|at| now.saturating_sub(*at) >= alert.period());
            if is_due {
                self.0.insert(alert.key.clone(), now);
            }
            is_due
        };
        alerts.into_iter().filter(|alert| is_fresh(alert)).collect()
    }
}

/// Returns one notification of several events: how grave it is, the VM, a title and lines.
pub fn notification(alerts: &[Alert]) -> Option<Vec<String>> {
    let first = alerts.first()?;
    let is_error = alerts.iter().any(|alert| alert.is_error);
    let is_of_one = alerts.iter().all(|alert| alert.vmid == first.vmid);
    let vmid = first.vmid.filter(|_| is_of_one);
    let title = match alerts.len() {
        1 => first.title.clone(),
        n => format!("{}, and {} more", first.title, n - 1),
    };
    let mut words = vec![
        if is_error { "error" } else { "warning" }.to_owned(),
        vmid.map_or("-".to_owned(), |vmid| vmid.to_string()),
        title,
    ];
    for alert in alerts.iter().take(MOST) {
        words.push(alert.text.clone());
        words.extend(alert.help.lines().map(|line| format!("help: {line}")));
    }
    if alerts.len() > MOST {
        let more = count(alerts.len() - MOST, "more event");
        words.push(format!("{more}: journalctl -t pin-hook"));
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(kind: Kind, key: &str) -> Alert {
        Alert {
            kind,
            vmid: "100".parse().ok(),
            is_error: kind == Kind::Start,
            key: key.to_owned(),
            title: "vm 100 was not started".to_owned(),
            text: format!("vm 100: {key}"),
            help: "stop vm 101".to_owned(),
        }
    }

    #[test]
    fn the_same_is_told_again_after_a_while() {
        let mut told = Told::default();
        let mut n_told = |kind, key: &str, seconds| {
            let now = Duration::from_secs(seconds);
            let n = told.fresh(vec![alert(kind, key)], now).len();
            told = Told::parse(&told.to_text());
            n
        };
        for (kind, key, seconds, expected) in [
            (Kind::Start, "a", 1000, 1),
            (Kind::Start, "a", 1599, 0),
            (Kind::Start, "b", 1599, 1),
            (Kind::Start, "a", 1600, 1),
            (Kind::State, "c", 2000, 1),
            (Kind::State, "c", 2015, 0),
            (Kind::State, "c", 88_399, 0),
            (Kind::State, "c", 88_400, 1),
        ] {
            assert_eq!(n_told(kind, key, seconds), expected, "{key} {seconds}");
        }
        assert_eq!(Told::parse("x\n5 y z\n").to_text(), "5 y z\n");
    }

    #[test]
    fn several_events_are_one_notification() {
        assert_eq!(notification(&[]), None);
        let one = notification(&[alert(Kind::Start, "cpu 3 is offline")]).unwrap();
        let expected = [
            "error",
            "100",
            "vm 100 was not started",
            "vm 100: cpu 3 is offline",
            "help: stop vm 101",
        ];
        assert_eq!(one, expected);
        let mut all = vec![alert(Kind::State, "x"); 25];
        all[7].vmid = None;
        let words = notification(&all).unwrap();
        let title = "vm 100 was not started, and 24 more";
        assert_eq!(words[..3], ["warning", "-", title]);
        let last = words.last().unwrap();
        assert_eq!(last, "5 more events: journalctl -t pin-hook");
    }
}
