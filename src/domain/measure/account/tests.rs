use super::*;
use crate::domain::measure::culprit::Names;
use crate::domain::measure::measurement::{Measurement, Seat, Stopped};
use crate::domain::trace::event::Context;

/// CPU 4 with the vCPU 100 on it.
fn accounts() -> Accounts {
    let mut accounts = Accounts::new(BTreeSet::from([100]), [(CpuId(4), 100)]);
    accounts.begin(0);
    accounts
}

/// Notes what happens on CPU 4 at these times, in microseconds, while these threads run.
fn happens(accounts: &mut Accounts, records: Vec<(u64, i32, Event)>) {
    for (us, running, event) in records {
        accounts.note(Record {
            at: us * 1000,
            cpu: CpuId(4),
            running,
            event,
        });
    }
}

fn switch(last: i32, is_ready: bool, next: i32) -> Event {
    let name = format!("thread-{next}");
    Event::Switch {
        last,
        is_ready,
        next,
        name,
    }
}

fn tick() -> Event {
    Event::Begins(Context::Vector("local timer"))
}

/// Returns what was taken from the vCPU, in microseconds, and by whom.
fn ended(accounts: &mut Accounts, us: u64) -> (u64, u64, Vec<(Who, u64, u64)>) {
    accounts.end(us * 1000);
    let account = &accounts.cpus[&CpuId(4)];
    let taken = account.taken.get(&100).copied().unwrap_or_default();
    let by = account.by.iter();
    let by = by.map(|(who, tally)| (who.clone(), tally.times, tally.total_ns / 1000));
    (taken.times, taken.total_ns / 1000, by.collect())
}

#[test]
fn an_interrupt_takes_what_it_lasts_and_is_named_by_what_it_calls() {
    let mut accounts = accounts();
    happens(
        &mut accounts,
        vec![
            (10, 100, tick()),
            (11, 100, Event::Calls(7)),
            (14, 100, Event::Returns),
            (15, 100, Event::Ends),
            (50, 100, Event::Begins(Context::Softirq(9))),
            (53, 100, Event::Ends),
        ],
    );
    let by = vec![
        (Who::Interrupt(Context::Softirq(9)), 1, 3),
        (Who::Function(Context::Vector("local timer"), 7), 1, 5),
    ];
    assert_eq!(ended(&mut accounts, 100), (2, 8, by));
    let account = &accounts.cpus[&CpuId(4)];
    assert_eq!(account.ran_ns, 100_000);
    assert_eq!(account.longest.ns, 5_000);
    assert_eq!(account.histogram.0[..2], [0, 2]);
}

#[test]
fn interruptions_close_together_are_one() {
    let mut accounts = accounts();
    let at = |ns: u64, event| Record {
        at: ns,
        cpu: CpuId(4),
        running: 100,
        event,
    };
    for record in [
        at(1_000, tick()),
        at(3_000, Event::Ends),
        at(3_200, Event::Begins(Context::Softirq(1))),
        at(5_000, Event::Ends),
    ] {
        accounts.note(record);
    }
    let (times, us, by) = ended(&mut accounts, 100);
    // The gap between them is nobody's.
    assert_eq!((times, us, by.len()), (1, 3, 2));
    assert_eq!(accounts.cpus[&CpuId(4)].longest.parts.len(), 2);
}

#[test]
fn who_is_replaced_and_ready_waits_and_who_sleeps_does_not() {
    let mut accounts = accounts();
    happens(
        &mut accounts,
        vec![
            (10, 100, switch(100, true, 55)),
            (40, 55, switch(55, false, 100)),
            (60, 100, switch(100, false, 56)),
            (90, 56, tick()),
            (95, 56, Event::Ends),
            (99, 56, switch(56, false, 100)),
        ],
    );
    let by = vec![(Who::Task(55, "thread-55".to_owned()), 1, 30)];
    assert_eq!(ended(&mut accounts, 100), (1, 30, by));
    let account = &accounts.cpus[&CpuId(4)];
    assert_eq!((account.waited_ns, account.ran_ns), (30_000, 31_000));
}

#[test]
fn a_worker_is_named_by_what_it_does_from_its_switch_to_its_sleep() {
    let mut accounts = accounts();
    happens(
        &mut accounts,
        vec![
            (10, 100, switch(100, true, 55)),
            (12, 55, Event::Works(1)),
            (20, 55, Event::Rests),
            (21, 55, Event::Works(2)),
            (30, 55, Event::Rests),
            (32, 55, switch(55, false, 100)),
            (50, 100, switch(100, true, 55)),
            (54, 55, switch(55, false, 100)),
        ],
    );
    let by = vec![
        (Who::Task(55, "thread-55".to_owned()), 1, 4),
        (Who::Work(1), 1, 11),
        (Who::Work(2), 1, 11),
    ];
    assert_eq!(ended(&mut accounts, 100), (2, 26, by));
}

#[test]
fn an_exit_for_the_host_is_taken_and_one_for_the_guest_is_its_own() {
    let mut accounts = accounts();
    happens(
        &mut accounts,
        vec![
            (10, 100, Event::Leaves { for_host: true }),
            (12, 100, tick()),
            (15, 100, Event::Ends),
            (20, 100, Event::Enters),
            (30, 100, Event::Leaves { for_host: false }),
            (33, 100, tick()),
            (34, 100, Event::Ends),
            (40, 100, Event::Enters),
            (50, 100, Event::Leaves { for_host: true }),
            (52, 100, Event::Enters),
            (60, 100, Event::Leaves { for_host: false }),
            (61, 100, switch(100, false, 0)),
            (80, 0, switch(0, false, 100)),
            (82, 100, Event::Enters),
        ],
    );
    let by = vec![
        (Who::Interrupt(Context::Vector("local timer")), 2, 11),
        (Who::Exit, 1, 2),
    ];
    assert_eq!(ended(&mut accounts, 100), (3, 13, by));
    let own = accounts.cpus[&CpuId(4)].own;
    // What the host did meanwhile is not the guest's, and neither is its sleep.
    assert_eq!((own.times, own.total_ns), (2, 9_000 + 3_000));
}

#[test]
fn an_nmi_is_no_part_of_what_it_interrupted() {
    let mut accounts = accounts();
    happens(
        &mut accounts,
        vec![
            (10, 100, tick()),
            (19, 100, Event::Nmi(3, 4_000)),
            (20, 100, Event::Ends),
        ],
    );
    let by = vec![
        (Who::Interrupt(Context::Vector("local timer")), 1, 6),
        (Who::Nmi(3), 1, 4),
    ];
    assert_eq!(ended(&mut accounts, 100), (1, 10, by));
}

#[test]
fn who_runs_elsewhere_waits_no_longer() {
    let mut accounts = Accounts::new(BTreeSet::from([100]), [(CpuId(4), 100), (CpuId(5), 0)]);
    accounts.begin(0);
    happens(&mut accounts, vec![(10, 100, switch(100, true, 55))]);
    accounts.note(Record {
        at: 30_000,
        cpu: CpuId(5),
        running: 0,
        event: switch(0, false, 100),
    });
    let by = vec![(Who::Task(55, "thread-55".to_owned()), 1, 20)];
    assert_eq!(ended(&mut accounts, 100), (1, 20, by));
}

#[test]
fn cpus_that_nobody_has_are_measured_against_idle() {
    let mut accounts = Accounts::new(BTreeSet::from([0]), [(CpuId(4), 0), (CpuId(5), 0)]);
    accounts.begin(0);
    happens(
        &mut accounts,
        vec![
            (10, 0, switch(0, false, 55)),
            (30, 55, switch(55, true, 56)),
            (40, 56, switch(56, false, 0)),
            (50, 0, tick()),
            (52, 0, Event::Ends),
        ],
    );
    // That another CPU goes idle says nothing of this one.
    accounts.end(100_000);
    let account = &accounts.cpus[&CpuId(4)];
    assert_eq!(account.taken[&0].total_ns, 32_000);
    assert_eq!(account.by.len(), 3);
}

#[test]
fn requests_to_measured_cpus_are_counted_by_who_asks() {
    let mut accounts = accounts();
    let asks = |cpu| Event::Asks { cpu, function: 9 };
    happens(
        &mut accounts,
        vec![(1, 70, asks(4)), (2, 70, asks(4)), (3, 70, asks(6))],
    );
    assert_eq!(accounts.asked, BTreeMap::from([((70, 9), 2)]));
}

#[test]
fn an_interruption_that_takes_longer_ends_the_measurement() {
    let mut accounts = accounts();
    let interrupt = |from, to| vec![(from, 100, tick()), (to, 100, Event::Ends)];
    happens(&mut accounts, interrupt(10, 60));
    assert!(!accounts.has_longer(50_000));
    happens(&mut accounts, interrupt(1_000, 1_090));
    accounts.end(2_000_000);
    assert!(accounts.has_longer(50_000));
    let stopped = |limit| {
        let mut measurement = Measurement {
            began_ns: 400_000,
            seats: vec![Seat {
                vcpu: Some(2),
                thread: 100,
                ..Seat::default()
            }],
            ..Measurement::default()
        };
        measurement.add_up(&accounts, &Names::default(), limit);
        measurement.stopped
    };
    assert_eq!((stopped(None), stopped(Some(90_000))), (None, None));
    let expected = Stopped {
        limit_ns: 50_000,
        ns: 90_000,
        after_ns: 600_000,
        cpu: CpuId(4),
        vcpu: Some(2),
    };
    assert_eq!(stopped(Some(50_000)), Some(expected));
}
