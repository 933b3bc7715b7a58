//! The journal: what a phase did, with fields, through `tracing-journald`.
//!
//! journald's socket blocks when journald hangs. Entries are therefore collected while a phase
//! runs and sent at its end by a thread that is abandoned when its deadline passes.

use std::time::Duration;

use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::SubscriberExt;

use super::deadline::within;
use crate::domain::vm::Vmid;

/// How long journald may take for all entries of a phase.
pub const WAIT: Duration = Duration::from_millis(300);

/// An entry of the journal; each field that is set becomes `PINHOOK_<NAME>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// How grave it is: something failed (priority `err`), is not as wished (`warning`), or was done (`notice`).
    pub level: tracing::Level,
    /// The text, which carries the key facts: `journalctl -t pin-hook` shows nothing else.
    pub message: String,
    /// The VM it is about.
    pub vmid: Option<Vmid>,
    /// The phase or command that ran.
    pub phase: Option<String>,
    /// The backend in use.
    pub backend: Option<String>,
    /// How long it took, in milliseconds.
    pub ms: Option<u64>,
}

/// Sends entries to journald and tells whether that was done in time.
///
/// Without a journald there is nobody to tell, which is no failure.
pub fn send(entries: Vec<Entry>) -> bool {
    deliver(entries, WAIT, to_journald)
}

/// Hands entries to `sink` in a thread that is abandoned after `wait`.
fn deliver(
    entries: Vec<Entry>,
    wait: Duration,
    sink: impl FnOnce(&[Entry]) + Send + 'static,
) -> bool {
    entries.is_empty() || within(wait, move || sink(&entries)).is_some()
}

fn to_journald(entries: &[Entry]) {
    // Fails at once where nobody listens.
    let Ok(layer) = tracing_journald::layer() else {
        return;
    };
    let layer = layer
        .with_syslog_identifier("pin-hook".to_owned())
        .with_field_prefix(Some("PINHOOK".to_owned()))
        .with_priority_mappings(PriorityMappings {
            info: Priority::Notice,
            ..PriorityMappings::new()
        });
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || entries.iter().for_each(emit));
}

/// Emits an entry to this thread's subscriber.
fn emit(entry: &Entry) {
    // Level and field names of an event are part of its call site.
    macro_rules! event {
        ($level:ident) => {
            tracing::event!(
                tracing::Level::$level,
                vmid = entry.vmid.map(tracing::field::display),
                phase = entry.phase.as_deref(),
                backend = entry.backend.as_deref(),
                ms = entry.ms,
                "{}",
                entry.message
            )
        };
    }
    match entry.level {
        tracing::Level::ERROR => event!(ERROR),
        tracing::Level::WARN => event!(WARN),
        _ => event!(INFO),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Write};
    use std::sync::{Arc, Mutex, mpsc};

    use tracing::field::{Field, Visit};
    use tracing_subscriber::Layer;

    use super::*;

    fn entry(level: tracing::Level, message: &str) -> Entry {
        Entry {
            level,
            message: message.to_owned(),
            vmid: None,
            phase: None,
            backend: None,
            ms: None,
        }
    }

    /// Collects events as text.
    #[derive(Clone, Default)]
    struct Collected(Arc<Mutex<Vec<String>>>);

    struct Text(String);

    impl Visit for Text {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            write!(self.0, " {}={value:?}", field.name()).unwrap();
        }
    }

    impl<S: tracing::Subscriber> Layer<S> for Collected {
        fn on_event(
            &self,
            event: &tracing::Event<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            let mut text = Text(event.metadata().level().to_string());
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }
    }

    #[test]
    fn fields_that_are_set_are_sent() {
        let collected = Collected::default();
        let subscriber = tracing_subscriber::registry().with(collected.clone());
        let full = Entry {
            vmid: Some("100".parse().unwrap()),
            phase: Some("post-start".to_owned()),
            ms: Some(38),
            ..entry(tracing::Level::INFO, "isolated {cpus} 8-15")
        };
        tracing::subscriber::with_default(subscriber, || {
            emit(&full);
            emit(&entry(tracing::Level::WARN, "drift"));
        });
        assert_eq!(
            *collected.0.lock().unwrap(),
            [
                "INFO message=isolated {cpus} 8-15 vmid=100 phase=\"post-start\" ms=38",
                "WARN message=drift",
            ]
        );
    }

    #[test]
    fn a_journald_that_hangs_costs_the_deadline_only() {
        let (go, held) = mpsc::channel::<()>();
        let entries = vec![entry(tracing::Level::INFO, "text")];
        let sent = deliver(entries.clone(), Duration::from_millis(10), move |_| {
            let _ = held.recv();
        });
        assert!(!sent);
        drop(go);
        assert!(deliver(entries, Duration::from_secs(60), |entries| {
            assert_eq!(entries.len(), 1);
        }));
    }

    #[test]
    fn nothing_to_say_needs_nobody() {
        let asked = |_: &[Entry]| panic!("asked");
        assert!(deliver(Vec::new(), Duration::ZERO, asked));
    }
}
