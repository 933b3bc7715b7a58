//! The tracepoints that say who takes a CPU from whom, and what their records mean.

use super::format::{Field, Format};

/// What interrupts a CPU.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Context {
    /// Handler of a device's interrupt: number and name.
    Device(u32, String),
    /// Interrupt that the CPU or another one made (`/proc/interrupts` has them as `LOC`, `RES`, `CAL` ...).
    Vector(&'static str),
    /// What an interrupt left for later, by its number.
    Softirq(u8),
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Another task runs from now on.
    Switch {
        /// Thread that ran so far.
        last: i32,
        /// Whether it would rather have gone on.
        is_ready: bool,
        /// Thread that runs now.
        next: i32,
        /// Its name.
        name: String,
    },
    /// An interrupt begins.
    Begins(Context),
    /// The innermost interrupt is over.
    Ends,
    /// A function is called within an interrupt, such as that of a timer.
    Calls(u64),
    /// It has returned.
    Returns,
    /// The running task works on an item of a workqueue.
    Works(u64),
    /// It is done.
    Rests,
    /// A vCPU enters its guest.
    Enters,
    /// It leaves its guest.
    Leaves {
        /// Whether the host wanted that (an interrupt of its own), not the guest.
        for_host: bool,
    },
    /// An NMI was handled in so many nanoseconds, by this function.
    Nmi(u64, u64),
    /// Another CPU is asked to call a function, or (0) to look whether it should schedule.
    Asks {
        /// Which CPU.
        cpu: u32,
        /// What it is to call.
        function: u64,
    },
}

/// How a tracepoint is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    Switch,
    Device,
    Vector(&'static str),
    Softirq,
    Ends,
    Calls,
    Returns,
    Works,
    Rests,
    Enters,
    Leaves,
    Nmi,
    Asks,
}

/// A tracepoint.
#[derive(Debug, PartialEq, Eq)]
pub struct Point {
    /// Group and name, as below `events` of tracefs.
    pub name: &'static str,
    /// Fields that are read, in the order that [`Means`] takes them.
    fields: &'static [&'static str],
    means: Means,
}

const fn point(name: &'static str, means: Means, fields: &'static [&'static str]) -> Point {
    Point {
        name,
        fields,
        means,
    }
}

const fn vector(name: &'static str, label: &'static str) -> Point {
    point(name, Means::Vector(label), &[])
}

const fn end(name: &'static str) -> Point {
    point(name, Means::Ends, &[])
}

/// Tracepoints on the CPUs that are measured (Linux 6.1 to 7.3; those that a kernel has not are left out, and
/// [`ESSENTIAL`] it must have). The vectors with which VMX posts interrupts to a guest have none
/// (`sysvec_kvm_posted_intr_ipi()`): what they take is not seen.
pub const HERE: &[Point] = &[
    point(
        ESSENTIAL,
        Means::Switch,
        &["prev_pid", "prev_state", "next_pid", "next_comm"],
    ),
    point("irq/irq_handler_entry", Means::Device, &["irq", "name"]),
    end("irq/irq_handler_exit"),
    point("irq/softirq_entry", Means::Softirq, &["vec"]),
    end("irq/softirq_exit"),
    vector("irq_vectors/local_timer_entry", "local timer"),
    end("irq_vectors/local_timer_exit"),
    vector("irq_vectors/reschedule_entry", "reschedule"),
    end("irq_vectors/reschedule_exit"),
    vector("irq_vectors/call_function_entry", "function call"),
    end("irq_vectors/call_function_exit"),
    vector("irq_vectors/call_function_single_entry", "function call"),
    end("irq_vectors/call_function_single_exit"),
    vector("irq_vectors/irq_work_entry", "irq work"),
    end("irq_vectors/irq_work_exit"),
    vector("irq_vectors/thermal_apic_entry", "thermal event"),
    end("irq_vectors/thermal_apic_exit"),
    vector("irq_vectors/threshold_apic_entry", "threshold event"),
    end("irq_vectors/threshold_apic_exit"),
    vector("irq_vectors/deferred_error_apic_entry", "deferred error"),
    end("irq_vectors/deferred_error_apic_exit"),
    vector("irq_vectors/error_apic_entry", "apic error"),
    end("irq_vectors/error_apic_exit"),
    vector("irq_vectors/spurious_apic_entry", "spurious interrupt"),
    end("irq_vectors/spurious_apic_exit"),
    vector("irq_vectors/x86_platform_ipi_entry", "platform"),
    end("irq_vectors/x86_platform_ipi_exit"),
    point("timer/hrtimer_expire_entry", Means::Calls, &["function"]),
    point("timer/hrtimer_expire_exit", Means::Returns, &[]),
    point("timer/timer_expire_entry", Means::Calls, &["function"]),
    point("timer/timer_expire_exit", Means::Returns, &[]),
    point("csd/csd_function_entry", Means::Calls, &["func"]),
    point("csd/csd_function_exit", Means::Returns, &[]),
    point(
        "workqueue/workqueue_execute_start",
        Means::Works,
        &["function"],
    ),
    point("workqueue/workqueue_execute_end", Means::Rests, &[]),
    point("nmi/nmi_handler", Means::Nmi, &["handler", "delta_ns"]),
    point("kvm/kvm_entry", Means::Enters, &[]),
    point(
        "kvm/kvm_exit",
        Means::Leaves,
        &["exit_reason", "isa", "intr_info"],
    ),
];

/// The tracepoint without which nothing can be said.
pub const ESSENTIAL: &str = "sched/sched_switch";

/// Tracepoints on every CPU, of those who ask a measured CPU for something (Linux 6.5 and later).
pub const ELSEWHERE: &[Point] = &[
    point("csd/csd_queue_cpu", Means::Asks, &["cpu", "func"]),
    point("ipi/ipi_send_cpu", Means::Asks, &["cpu", "callback"]),
];

/// Exit reasons for which the host is to blame, by the kind of virtualization (`isa` of `kvm_exit`): VMX has 1 for
/// an external interrupt; SVM has an interrupt, an NMI and an SMI from 0x60 on. The preemption timer of VMX (52) is
/// not among them: with it KVM emulates the timer of the guest's own APIC.
const FOR_HOST: [(i64, &[i64]); 2] = [(VMX, &[1]), (SVM, &[0x60, 0x61, 0x62])];
const VMX: i64 = 1;
const SVM: i64 = 2;

/// Reads records.
#[derive(Debug, Default)]
pub struct Decoder {
    known: Vec<Learnt>,
}

#[derive(Debug)]
struct Learnt {
    id: u16,
    means: Means,
    fields: [Option<Field>; 4],
}

impl Decoder {
    /// Learns a tracepoint by the text of its file `format`; tells whether all its fields are there.
    pub fn learn(&mut self, point: &Point, format: &str) -> bool {
        let Some(format) = Format::parse(format) else {
            return false;
        };
        let mut fields = [None; 4];
        for (place, name) in fields.iter_mut().zip(point.fields) {
            *place = format.field(name);
            if place.is_none() {
                return false;
            }
        }
        self.known.push(Learnt {
            id: format.id,
            means: point.means,
            fields,
        });
        self.known.sort_by_key(|known| known.id);
        true
    }

    /// Returns what a record says and the thread that was running; `None` for one that was never learnt, or is
    /// cut short.
    pub fn read(&self, record: &[u8]) -> Option<(i32, Event)> {
        // The fields that every record has (`struct trace_entry`).
        let id = u16::from_le_bytes(record.get(..2)?.try_into().ok()?);
        let running = i32::from_le_bytes(record.get(4..8)?.try_into().ok()?);
        let at = self
            .known
            .binary_search_by_key(&id, |known| known.id)
            .ok()?;
        Some((running, self.known[at].read(record)?))
    }
}

impl Learnt {
    fn read(&self, record: &[u8]) -> Option<Event> {
        let number = |n: usize| self.fields[n]?.number(record);
        let address = |n: usize| self.fields[n]?.address(record);
        let text = |n: usize| self.fields[n]?.text(record);
        Some(match self.means {
            Means::Switch => Event::Switch {
                last: i32::try_from(number(0)?).ok()?,
                is_ready: is_ready(number(1)?),
                next: i32::try_from(number(2)?).ok()?,
                name: text(3)?,
            },
            Means::Device => {
                let number = u32::try_from(number(0)?).ok()?;
                Event::Begins(Context::Device(number, text(1)?))
            }
            Means::Vector(name) => Event::Begins(Context::Vector(name)),
            Means::Softirq => {
                let number = u8::try_from(number(0)?).ok()?;
                Event::Begins(Context::Softirq(number))
            }
            Means::Ends => Event::Ends,
            Means::Calls => Event::Calls(address(0)?),
            Means::Returns => Event::Returns,
            Means::Works => Event::Works(address(0)?),
            Means::Rests => Event::Rests,
            Means::Enters => Event::Enters,
            Means::Leaves => Event::Leaves {
                for_host: is_for_host(number(0)?, number(1)?, number(2)?),
            },
            Means::Nmi => Event::Nmi(address(0)?, u64::try_from(number(1)?).unwrap_or_default()),
            Means::Asks => Event::Asks {
                cpu: u32::try_from(number(0)?).ok()?,
                function: address(1)?,
            },
        })
    }
}

/// Tells whether a task that another one replaces could have gone on: its state is `TASK_RUNNING`, or the kernel
/// has taken the CPU from it (`TASK_REPORT_MAX` in `include/linux/sched.h`: 0x100).
fn is_ready(state: i64) -> bool {
    state & 0xff == 0 || state & 0x100 != 0
}

fn is_for_host(reason: i64, isa: i64, intr_info: i64) -> bool {
    // An NMI of the host (`perf`, the hard lockup watchdog) has no reason of its own in VMX: it comes as an exception
    // (0), and bits 8 to 10 of what interrupted say that it is none (`INTR_TYPE_NMI_INTR` in `asm/vmx.h`).
    let is_nmi = isa == VMX && reason & 0xffff == 0 && intr_info >> 8 & 7 == 2;
    let mut kinds = FOR_HOST.iter();
    is_nmi || kinds.any(|(kind, reasons)| *kind == isa && reasons.contains(&(reason & 0xffff)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_the_hosts_by_its_reason_and_isa() {
        for (reason, isa, intr_info, expected) in [
            (1, 1, 0x8000_00ec, true),
            (12, 1, 0, false),
            // An NMI of the host, and an exception of the guest.
            (0, 1, 0x8000_0202, true),
            (0, 1, 0x8000_030e, false),
            (52, 1, 0, false),
            (0x60, 2, 0, true),
            (0x78, 2, 0, false),
            (1, 2, 0, false),
            (0, 2, 0x8000_0202, false),
        ] {
            let is_host = is_for_host(reason, isa, intr_info);
            assert_eq!(is_host, expected, "{reason} {isa} {intr_info:#x}");
        }
    }

    #[test]
    fn a_task_that_sleeps_is_not_ready() {
        for (state, expected) in [
            (0, true),
            (1, false),
            (2, false),
            (0x100, true),
            (0x80, false),
        ] {
            assert_eq!(is_ready(state), expected, "{state:#x}");
        }
    }

    #[test]
    fn a_tracepoint_without_a_field_is_not_learnt() {
        let format = "ID: 5\n\tfield:unsigned int vec;\toffset:8;\tsize:4;\tsigned:0;\n";
        let mut decoder = Decoder::default();
        let point = |name| HERE.iter().find(|point| point.name == name).unwrap();
        assert!(!decoder.learn(point("irq/irq_handler_entry"), format));
        assert!(!decoder.learn(point("irq/softirq_entry"), "nothing"));
        assert!(decoder.learn(point("irq/softirq_entry"), format));
        let record = [5, 0, 0, 0, 9, 0, 0, 0, 7, 0, 0, 0];
        let event = Event::Begins(Context::Softirq(7));
        assert_eq!(decoder.read(&record), Some((9, event)));
        for n in 0..record.len() {
            assert_eq!(decoder.read(&record[..n]), None);
        }
        assert_eq!(decoder.read(&[6, 0, 0, 0, 9, 0, 0, 0, 7, 0, 0, 0]), None);
    }
}
