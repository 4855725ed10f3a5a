//! Twenty years of nights in ten time zones: three replicas that come and go, a clock that is stepped, and a table of slots
//! that follows the rules of the database (`postgres::state::slots`).

use std::collections::BTreeMap;

use super::*;

const ZONES: [&str; 10] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Africa/Cairo",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "America/Santiago",
    "Asia/Tehran",
];
const REPLICAS: usize = 3;
const YEARS: i64 = 20;

/// Xorshift, so that a run that fails can be repeated.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn one_in(&mut self, number: u64) -> bool {
        self.next().is_multiple_of(number)
    }

    fn seconds(&mut self, up_to: i64) -> chrono::Duration {
        chrono::Duration::seconds(self.next().cast_signed().rem_euclid(up_to))
    }
}

struct Slot {
    state: RunState,
    /// When the run will have ended, by the clock on the wall that nobody steps.
    ends: Option<DateTime<Utc>>,
    end_time: Option<DateTime<Utc>>,
    /// How often it was run.
    runs: u32,
}

struct Table {
    slots: BTreeMap<DateTime<Utc>, Slot>,
    running: Vec<DateTime<Utc>>,
    seen: DateTime<Utc>,
}

impl Table {
    /// `schedule_watch`.
    fn watch(&mut self, time: DateTime<Utc>) -> (DateTime<Utc>, Option<DateTime<Utc>>) {
        self.seen = self.seen.min(time);
        (self.seen, self.slots.range(..=self.seen).next_back().and_then(|(_, slot)| slot.end_time))
    }

    /// `pass_slots`.
    fn pass(&mut self, planned: &[DateTime<Utc>], state: RunState) {
        for &planned in planned {
            self.slots.entry(planned).or_insert(Slot { state, ends: None, end_time: None, runs: 0 });
            self.seen = self.seen.max(planned);
        }
    }

    /// `claim_slot`, or `schedule_seen`.
    fn claim(&mut self, planned: DateTime<Utc>, ends: DateTime<Utc>) -> bool {
        let slot = self.slots.entry(planned).or_insert(Slot { state: RunState::Missed, ends: None, end_time: None, runs: 0 });
        let free = slot.runs == 0 && matches!(slot.state, RunState::Missed | RunState::Skipped);
        if free {
            (slot.state, slot.ends) = (RunState::Running, Some(ends));
            slot.runs += 1;
            self.running.push(planned);
        } else if self.running.iter().all(|running| *running > planned) {
            self.seen = self.seen.max(planned);
        }
        free
    }

    /// `settle_slot`, or `unclaim_slot` where the process died before it began. True: one is under way.
    fn settle(&mut self, real: DateTime<Utc>, time: DateTime<Utc>, dice: &mut Dice) -> bool {
        let under_way = |slot: &Slot| slot.ends.is_some_and(|end| end > real);
        for planned in std::mem::take(&mut self.running) {
            let Some(slot) = self.slots.get_mut(&planned) else { continue };
            if under_way(slot) {
                self.running.push(planned);
            } else if dice.one_in(20) {
                self.slots.remove(&planned);
            } else {
                let state = if dice.one_in(10) { RunState::Failed } else { RunState::Succeeded };
                (slot.state, slot.end_time) = (state, Some(time));
                self.seen = self.seen.max(planned);
            }
        }
        !self.running.is_empty()
    }
}

/// One zone and rule; returns how many slots had which result.
fn simulate(schedule: &Schedule, seed: u64) -> BTreeMap<&'static str, usize> {
    let mut dice = Dice(seed);
    let begin: DateTime<Utc> = "2026-01-01T12:00:00Z".parse().unwrap();
    let end = begin + chrono::Duration::days(365 * YEARS + 5);
    let mut table = Table { slots: BTreeMap::new(), running: Vec::new(), seen: begin };
    // What the clock is ahead, and until when.
    let (mut ahead, mut until) = (chrono::Duration::zero(), begin);
    let mut real = begin;
    let act = |table: &mut Table, look: &Look, real: DateTime<Utc>, dice: &mut Dice| {
        table.pass(&look.skipped, RunState::Skipped);
        table.pass(&look.missed, RunState::Missed);
        if let Some(start) = look.start {
            let takes = if dice.one_in(50) { 30 * 3600 } else { 1800 };
            table.claim(start, real + dice.seconds(takes));
        }
    };
    while real < end {
        // Mostly somebody looks within minutes, sometimes nobody for days.
        real += match dice.next() % 40 {
            0 => dice.seconds(4 * 86_400),
            1..=9 => dice.seconds(10),
            _ => dice.seconds(6 * 3600),
        };
        if real >= until {
            ahead = chrono::Duration::zero();
            if dice.one_in(200) {
                let far = [5, 3600, 86_400, 400 * 86_400][dice.next() as usize % 4];
                ahead = if dice.one_in(2) { dice.seconds(far) } else { -dice.seconds(far) };
                until = real + dice.seconds(2 * 86_400);
            }
        }
        let time = real + ahead;
        // All of them look before the first one acts, in any order.
        let looking = 1 + dice.next() as usize % REPLICAS;
        if table.settle(real, time, &mut dice) {
            continue;
        }
        let looks: Vec<Look> = (0..looking)
            .map(|_| {
                let (since, busy_until) = table.watch(time);
                schedule.look(since, busy_until, time + dice.seconds(5))
            })
            .collect();
        for look in &looks {
            act(&mut table, look, real, &mut dice);
        }
    }
    // Calm at the end: every look until nothing is left.
    loop {
        real += chrono::Duration::days(2);
        table.settle(real, real, &mut Dice(1));
        let (since, busy_until) = table.watch(real);
        let look = schedule.look(since, busy_until, real);
        act(&mut table, &look, real - chrono::Duration::days(2), &mut Dice(1));
        if real > end + chrono::Duration::days(20) {
            break;
        }
    }

    let planned: Vec<DateTime<Utc>> = schedule.planned(begin).take_while(|planned| *planned <= end).collect();
    let mut results = BTreeMap::new();
    for slot in &planned {
        let Some(found) = table.slots.get(slot) else {
            panic!("{} {:?}, seed {seed}: the run planned for {slot} has no result", schedule.time_zone, schedule.recurrence)
        };
        assert!(found.runs <= 1, "{slot} was run {} times", found.runs);
        let name = match found.state {
            RunState::Succeeded | RunState::Failed => "run",
            RunState::Skipped => "skipped",
            RunState::Missed => "missed",
            RunState::Running => panic!("the run planned for {slot} never ended"),
        };
        *results.entry(name).or_default() += 1;
    }
    // Nothing was run that was not planned.
    for slot in table.slots.range(begin..=end).map(|(slot, _)| slot).filter(|slot| **slot > begin) {
        assert!(planned.binary_search(slot).is_ok(), "{slot} was not planned");
    }
    results
}

#[test]
fn s06_s08_s09_s11_s19_twenty_years_in_ten_zones_have_one_result_for_each_slot() {
    for (number, zone) in ZONES.into_iter().enumerate() {
        // In the hour that the clocks of most zones skip or repeat.
        let recurrence = Recurrence::Daily { hours: if number % 2 == 0 { 1 } else { 2 }, minutes: 30 };
        let schedule = Schedule { recurrence, time_zone: time_zone(zone).unwrap(), ..Schedule::default() };
        let results = simulate(&schedule, 0x9e37_79b9_7f4a_7c15 ^ number as u64);
        let total: usize = results.values().sum();
        // Apia had no 30 December 2011, and no zone is to lose a day in these years.
        assert!((7303..=7307).contains(&total), "{zone}: {results:?}");
        assert!(results["run"] > 3000, "{zone}: {results:?}");
    }
}

#[test]
fn s07_rules_with_many_runs_have_one_result_for_each_slot_too() {
    for (number, rule) in ["0 * * * *", "*/30 8-17 * * 1-5", "0 1 29 2 *"].into_iter().enumerate() {
        let recurrence = Recurrence::Cron(rule.into());
        let schedule = Schedule { recurrence, time_zone: time_zone("Europe/Berlin").unwrap(), ..Schedule::default() };
        let results = simulate(&schedule, 77 + number as u64);
        assert!(results["run"] >= 4, "{rule}: {results:?}");
    }
}
