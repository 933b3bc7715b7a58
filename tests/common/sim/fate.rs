//! What may befall the program: errors of the kernel, death at a write.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;

use super::garble::Garble;
use super::{Locked, Sim, errno};

/// Planted instead of an error number: the kernel takes only a part of what is written.
pub const SHORT_WRITE: i32 = 0;

/// How the program dies at an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// Before the operation takes effect.
    Before,
    /// After the operation took effect, before the program learns of it.
    After,
    /// In the middle: of an append (or a new file) only the first half is there.
    Torn,
}

/// What may end beside the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A VM.
    Vm(u32),
    /// A task, by its id.
    Task(i32),
    /// An interrupt, by its number.
    Irq(u32),
    /// A container.
    Container(u32),
    /// A cpufreq policy, by its number: its driver is unloaded.
    Policy(u32),
    /// A PCI function, by its address.
    Function(&'static str),
}

/// Payload of the panic that stands for `SIGKILL`; carries the operation it happened at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Died(pub String);

/// What was done so far, and what is going to befall the program.
#[derive(Debug, Clone, Default)]
pub struct Fate {
    /// Every operation that changes something, such as `write /sys/... 2-5`.
    pub log: Vec<String>,
    /// How often it was asked what changes nothing, by what was done: `read`, `list`, `exists`, `affinity` and so on.
    pub asked: BTreeMap<String, usize>,
    death: Option<(usize, Death)>,
    dead: bool,
    death_op: Option<String>,
    failures: Vec<Failure>,
    /// In how many operations something ends, and what.
    ending: Option<(usize, End)>,
    meanwhile: Option<Meanwhile>,
    pub garble: Garble,
    pub next_guard: u64,
}

/// What others do right after an operation.
#[derive(Clone)]
struct Meanwhile {
    op: String,
    act: Rc<dyn Fn()>,
}

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {}", self.op)
    }
}

#[derive(Debug, Clone)]
struct Failure {
    pattern: String,
    errno: i32,
    times: u32,
}

/// What happens to an operation.
pub enum Verdict {
    Proceed,
    ProceedAndDie(Died),
    TearAndDie(Died),
    Fail(io::Error),
    Die(Died),
}

impl Fate {
    /// Counts and logs an operation that changes something, and says what happens to it.
    fn judge(&mut self, op: &str) -> Verdict {
        if self.dead {
            return Verdict::Die(Died(op.to_owned()));
        }
        if let Some(error) = self.failure(op) {
            return Verdict::Fail(error);
        }
        self.log.push(op.to_owned());
        if self.death_op.take_if(|last| last == op).is_some() {
            self.dead = true;
            return Verdict::Die(Died(op.to_owned()));
        }
        let Some((left, death)) = self.death.as_mut() else {
            return Verdict::Proceed;
        };
        *left -= 1;
        if *left > 0 {
            return Verdict::Proceed;
        }
        let died = Died(op.to_owned());
        let verdict = match death {
            Death::Before => Verdict::Die(died),
            Death::After => Verdict::ProceedAndDie(died),
            Death::Torn => Verdict::TearAndDie(died),
        };
        (self.death, self.dead) = (None, true);
        verdict
    }

    /// Counts an operation; returns what ends before it.
    fn ends_now(&mut self) -> Option<End> {
        let (left, end) = self.ending.as_mut()?;
        *left -= 1;
        let end = (*left == 0).then_some(*end)?;
        self.ending = None;
        Some(end)
    }

    /// Counts what changes nothing.
    pub fn count(&mut self, op: &str) {
        let what = op.split(' ').next().unwrap_or_default();
        *self.asked.entry(what.to_owned()).or_default() += 1;
    }

    /// Returns the error that a test planted for `op`.
    pub fn failure(&mut self, op: &str) -> Option<io::Error> {
        let failures = &mut self.failures;
        let found = failures
            .iter_mut()
            .find(|failure| failure.times > 0 && matches(&failure.pattern, op))?;
        found.times -= 1;
        Some(match found.errno {
            SHORT_WRITE => io::ErrorKind::WriteZero.into(),
            number => errno(number),
        })
    }
}

/// Tells whether `op` holds the pieces of `pattern` between its `*` in their order, or is what
/// follows a `=`.
fn matches(pattern: &str, op: &str) -> bool {
    if let Some(whole) = pattern.strip_prefix('=') {
        return op == whole;
    }
    let mut rest = op;
    pattern.split('*').all(|piece| match rest.find(piece) {
        Some(at) => {
            rest = &rest[at + piece.len()..];
            true
        }
        None => false,
    })
}

/// Leaves the program without running its panic hook, or reports an error where it is already
/// leaving: a killed process does nothing any more, also no `Drop`.
fn die(died: Died) -> io::Error {
    if std::thread::panicking() {
        return errno(libc::ESRCH);
    }
    panic::resume_unwind(Box::new(died))
}

impl Sim {
    /// Runs an operation of the program that changes something.
    ///
    /// `act` gets `true` when it must do half of its work only.
    pub(super) fn change<T>(
        &self,
        op: &str,
        act: impl FnOnce(&mut super::State, bool) -> io::Result<T>,
    ) -> io::Result<T> {
        self.let_happen();
        let verdict = self.state().fate.judge(op);
        let act = |state: &mut super::State, torn| {
            state.without_waiting_for_probes(op, |state| act(state, torn))
        };
        match verdict {
            Verdict::Proceed => {
                let done = act(&mut self.state(), false);
                self.let_others_act(op);
                done
            }
            Verdict::Fail(error) => Err(error),
            Verdict::Die(died) => Err(die(died)),
            Verdict::ProceedAndDie(died) => {
                let _ = act(&mut self.state(), false);
                Err(die(died))
            }
            Verdict::TearAndDie(died) => {
                let _ = act(&mut self.state(), true);
                Err(die(died))
            }
        }
    }

    /// Lets others act right after the next operation that matches `pattern` and changes something or asks a
    /// monitor.
    pub fn meanwhile(&self, pattern: &str, act: impl Fn() + 'static) {
        self.state().fate.meanwhile = Some(Meanwhile {
            op: pattern.to_owned(),
            act: Rc::new(act),
        });
    }

    pub(super) fn let_others_act(&self, op: &str) {
        let due = {
            let mut state = self.state();
            let meanwhile = &mut state.fate.meanwhile;
            meanwhile.take_if(|meanwhile| matches(&meanwhile.op, op))
        };
        if let Some(due) = due {
            (due.act)();
        }
    }

    /// Kills the program at the `n`-th operation from now on that changes something (1 is the
    /// next one), before it takes effect.
    pub fn die_at_write(&self, n: usize) {
        self.die_at(n, Death::Before);
    }

    /// Kills the program at the `n`-th changing operation from now on, in the way of `death`.
    pub fn die_at(&self, n: usize, death: Death) {
        assert!(n > 0, "operations are counted from 1");
        self.state().fate.death = Some((n, death));
    }

    /// Kills the program before the next operation that is `op` takes effect.
    pub fn die_at_op(&self, op: &str) {
        self.state().fate.death_op = Some(op.to_owned());
    }

    /// Runs `f`, a life of the program: `Err` when it died. Its locks are free afterwards and a
    /// death that did not come is called off.
    pub fn run_until_death<T>(&self, f: impl FnOnce() -> T) -> Result<T, Died> {
        let outcome = panic::catch_unwind(AssertUnwindSafe(f));
        let mut state = self.state();
        (state.fate.death, state.fate.dead) = (None, false);
        match outcome {
            Ok(value) => Ok(value),
            Err(payload) => match payload.downcast::<Died>() {
                Ok(died) => {
                    state.locks.retain(|_, locked| *locked == Locked::Other);
                    Err(*died)
                }
                Err(other) => {
                    drop(state);
                    panic::resume_unwind(other)
                }
            },
        }
    }

    /// Makes the next `times` operations that match `pattern` fail with `errno`.
    ///
    /// Operations read `<op> <path> <text>`, with the operations `read list write make_dir
    /// remove_dir remove append replace set_affinity reload start stop delegated run_state
    /// iothreads vcpus`; `*` in the pattern stands for any text, both ends are open; a pattern
    /// that begins with `=` is the whole operation.
    pub fn fail(&self, pattern: &str, errno: i32, times: u32) {
        let pattern = pattern.to_owned();
        self.state().fate.failures.push(Failure {
            pattern,
            errno,
            times,
        });
    }

    /// Ends all errors that were planted.
    pub fn fail_no_more(&self) {
        self.state().fate.failures.clear();
    }

    /// Ends something before the `n`-th operation from now on, of which those count that only look too.
    pub fn end_at(&self, n: usize, end: End) {
        assert!(n > 0, "operations are counted from 1");
        self.state().fate.ending = Some((n, end));
    }

    /// Calls that end off; tells whether it had yet to come.
    pub fn call_end_off(&self) -> bool {
        self.state().fate.ending.take().is_some()
    }

    /// Lets happen what was to happen before the operation that follows.
    pub(super) fn let_happen(&self) {
        let end = self.state().fate.ends_now();
        if let Some(end) = end {
            self.end(end);
        }
    }

    /// Ends something now.
    pub fn end(&self, end: End) {
        match end {
            End::Vm(vmid) => self.state().end_vm(vmid),
            End::Task(tid) => self.kill(tid),
            End::Irq(number) => self.remove_irq(number),
            End::Container(ctid) => self.stop_container(ctid),
            End::Policy(number) => self.remove_policy(number),
            End::Function(address) => self.state().remove_function(address),
        }
    }

    /// Returns the number of changing operations so far.
    pub fn writes(&self) -> usize {
        self.state().fate.log.len()
    }

    /// Returns the log of changing operations since the last call.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().fate.log)
    }
}
