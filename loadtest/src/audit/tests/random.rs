//! Random histories: a sound one has no violation, and one with a defect has at least one.

use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};

use super::*;

/// What an audit is told. Readers and places by their number.
#[derive(Clone, Debug)]
enum Step {
    Subscribed { place: usize, head: u64 },
    Publishing { place: usize, message: Digest },
    Acknowledged { place: usize, sequence: u64, message: Digest },
    Delivered { reader: usize, sequence: u64, message: Digest },
    Skipped { reader: usize, from: u64, to: u64 },
    Leaving { reader: usize },
    Left { reader: usize },
    GivenUp { reader: usize },
    Leaked { user: u32 },
    Probed { place: usize, sequence: u64, head: u64, message: Option<Digest> },
    GoOnWithHistory,
    BeginHistory,
    History { place: usize, sequence: u64, message: Digest },
    EndHistory { place: usize, head: u64 },
    EndDelivery { place: usize, head: u64 },
}

const PLACES: usize = 2;
const STEPS: usize = 300;

/// A reader in the world: what it has been sent, and whether it has not left or been given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seat {
    place: usize,
    sent: u64,
    is_there: bool,
}

/// A server that does everything right, and whose users come, go and resume at random.
struct World {
    random: SmallRng,
    steps: Vec<Step>,
    logs: [Vec<Digest>; PLACES],
    /// Committed, and not acknowledged yet.
    unacknowledged: Vec<(usize, u64)>,
    seats: Vec<Seat>,
    history: [u64; PLACES],
    next_id: u64,
}

impl World {
    fn run(seed: u64) -> Self {
        let mut world = Self {
            random: SmallRng::seed_from_u64(seed),
            steps: vec![Step::BeginHistory],
            logs: [const { Vec::new() }; PLACES],
            unacknowledged: Vec::new(),
            seats: Vec::new(),
            history: [0; PLACES],
            next_id: 0,
        };
        // Enough of everything for each defect to find its place.
        for place in 0..PLACES {
            (0..2).for_each(|_| world.subscribe(place));
            (0..3).for_each(|_| world.publish(place, true));
        }
        (0..STEPS).for_each(|_| world.step());
        world.end();
        world
    }

    fn step(&mut self) {
        let place = self.random.random_range(0..PLACES);
        match self.random.random_range(0..100) {
            0..25 => {
                // Some publishes fail, and some fail after they were committed.
                let is_committed = self.random.random_bool(0.9);
                self.publish(place, is_committed);
            }
            25..40 => self.acknowledge(),
            40..80 => self.deliver(),
            80..84 => self.subscribe(place),
            84..88 => self.skip(),
            88..91 => self.leave(),
            91..93 => self.give_up(),
            93..97 => self.probe(place),
            _ => self.read_history(),
        }
    }

    fn publish(&mut self, place: usize, is_committed: bool) {
        self.next_id += 1;
        let body = vec![b'x'; self.random.random_range(0..300)];
        let message = Digest::new(self.random.random_range(1..5), self.next_id, &body);
        self.steps.push(Step::Publishing { place, message });
        if is_committed {
            self.logs[place].push(message);
            self.unacknowledged.push((place, self.logs[place].len() as u64));
        }
    }

    /// Acknowledgements come in any order, and some never.
    fn acknowledge(&mut self) {
        if self.unacknowledged.is_empty() {
            return;
        }
        let which = self.random.random_range(0..self.unacknowledged.len());
        let (place, sequence) = self.unacknowledged.swap_remove(which);
        if self.random.random_bool(0.9) {
            let message = self.at(place, sequence);
            self.steps.push(Step::Acknowledged { place, sequence, message });
        }
    }

    fn subscribe(&mut self, place: usize) {
        let head = self.logs[place].len() as u64;
        self.steps.push(Step::Subscribed { place, head });
        self.seats.push(Seat { place, sent: head, is_there: true });
    }

    fn some_seat(&mut self) -> Option<usize> {
        let there: Vec<usize> =
            (0..self.seats.len()).filter(|seat| self.seats[*seat].is_there).collect();
        there.choose(&mut self.random).copied()
    }

    /// A few messages at once. A reader that was away resumes where it stopped, so that nothing
    /// tells a resume from a pause.
    fn deliver(&mut self) {
        let Some(reader) = self.some_seat() else { return };
        let due = self.logs[self.seats[reader].place].len() as u64 - self.seats[reader].sent;
        let count = self.random.random_range(0..=due.min(8));
        self.deliver_to(reader, self.seats[reader].sent + count);
    }

    fn deliver_to(&mut self, reader: usize, to: u64) {
        let Seat { place, sent, .. } = self.seats[reader];
        for sequence in sent + 1..=to {
            let message = self.at(place, sequence);
            self.steps.push(Step::Delivered { reader, sequence, message });
        }
        self.seats[reader].sent = to.max(sent);
    }

    fn skip(&mut self) {
        let Some(reader) = self.some_seat() else { return };
        let Seat { place, sent, .. } = self.seats[reader];
        let head = self.logs[place].len() as u64;
        if sent < head {
            let to = self.random.random_range(sent + 1..=head);
            self.steps.push(Step::Skipped { reader, from: sent + 1, to });
            self.seats[reader].sent = to;
        }
    }

    /// A reader unsubscribes, gets at least what is committed by now, and perhaps not all of what
    /// is committed before the answer.
    fn leave(&mut self) {
        let Some(reader) = self.some_seat() else { return };
        let place = self.seats[reader].place;
        let committed = self.logs[place].len() as u64;
        self.steps.push(Step::Leaving { reader });
        self.publish(place, true);
        self.acknowledge();
        let more = self.random.random_range(0..=1);
        self.deliver_to(reader, committed + more);
        self.steps.push(Step::Left { reader });
        self.seats[reader].is_there = false;
    }

    fn give_up(&mut self) {
        let Some(reader) = self.some_seat() else { return };
        self.steps.push(Step::GivenUp { reader });
        self.seats[reader].is_there = false;
    }

    /// History is asked for what somebody has got.
    fn probe(&mut self, place: usize) {
        let seen = self.seats.iter().filter(|seat| seat.place == place);
        let is_delivered = |sequence: u64| {
            self.steps.iter().any(|step| {
                matches!(step, Step::Delivered { reader, sequence: came, .. }
                    if self.seats[*reader].place == place && *came == sequence)
            })
        };
        let last = seen.map(|seat| seat.sent).max().unwrap_or(0);
        if let Some(sequence) = (1..=last).rev().find(|it| is_delivered(*it)) {
            let head = self.logs[place].len() as u64;
            let message = Some(self.at(place, sequence));
            self.steps.push(Step::Probed { place, sequence, head, message });
        }
    }

    /// History is read on, up to where it was when the first page was asked for.
    fn read_history(&mut self) {
        self.steps.push(Step::GoOnWithHistory);
        for place in 0..PLACES {
            let head = self.logs[place].len() as u64;
            for sequence in self.history[place] + 1..=head {
                let message = self.at(place, sequence);
                self.steps.push(Step::History { place, sequence, message });
            }
            self.history[place] = head;
            self.steps.push(Step::EndHistory { place, head });
        }
    }

    /// Everybody gets the rest, and history is read once more from the beginning.
    fn end(&mut self) {
        for reader in 0..self.seats.len() {
            if self.seats[reader].is_there {
                self.deliver_to(reader, self.logs[self.seats[reader].place].len() as u64);
            }
        }
        self.steps.push(Step::BeginHistory);
        self.history = [0; PLACES];
        self.read_history();
        for place in 0..PLACES {
            let head = self.logs[place].len() as u64;
            self.steps.push(Step::EndDelivery { place, head });
        }
    }

    fn at(&self, place: usize, sequence: u64) -> Digest {
        self.logs[place][sequence as usize - 1]
    }
}

/// What a server may do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Defect {
    Drop,
    Duplicate,
    Swap,
    ChangeBody,
    DeliverEarly,
    Forget,
    Leak,
    LeakAfterLeaving,
    StoreTwice,
}

const DEFECTS: [Defect; 9] = [
    Defect::Drop,
    Defect::Duplicate,
    Defect::Swap,
    Defect::ChangeBody,
    Defect::DeliverEarly,
    Defect::Forget,
    Defect::Leak,
    Defect::LeakAfterLeaving,
    Defect::StoreTwice,
];

/// Puts one defect at a random place. Not where no audit could see it: a delivery that is left out
/// is one to a reader that stays to the end.
fn spoil(world: &mut World, defect: Defect) -> bool {
    let all = 0..world.steps.len();
    let kept = |step: &Step| matches!(step, Step::Delivered { reader, .. } if world.seats[*reader].is_there);
    let places: Vec<usize> = match defect {
        Defect::Drop | Defect::Duplicate | Defect::ChangeBody => {
            all.filter(|at| kept(&world.steps[*at])).collect()
        }
        Defect::Swap => {
            let is_first_of_two = |at: &usize| match &world.steps[*at..] {
                [Step::Delivered { reader: a, .. }, Step::Delivered { reader: b, .. }, ..] => {
                    a == b
                }
                _ => false,
            };
            all.filter(is_first_of_two).collect()
        }
        Defect::DeliverEarly => {
            all.filter(|at| matches!(world.steps[*at], Step::Probed { .. })).collect()
        }
        Defect::Forget => {
            all.filter(|at| matches!(world.steps[*at], Step::Acknowledged { .. })).collect()
        }
        Defect::Leak => all.collect(),
        Defect::LeakAfterLeaving => {
            all.filter(|at| matches!(world.steps[*at], Step::Left { .. })).collect()
        }
        // In the last reading.
        Defect::StoreTwice => {
            let is_end = |step: &Step| matches!(step, Step::EndHistory { head: 1.., .. });
            all.filter(|at| is_end(&world.steps[*at])).collect()
        }
    };
    let Some(&at) = places.choose(&mut world.random) else { return false };
    match (defect, &mut world.steps[at]) {
        (Defect::Drop, _) => drop(world.steps.remove(at)),
        (Defect::Duplicate, step) => {
            let step = step.clone();
            world.steps.insert(at, step);
        }
        (Defect::Swap, _) => world.steps.swap(at, at + 1),
        (Defect::ChangeBody, Step::Delivered { message, .. }) => {
            *message = Digest::new(1, 1, b"another");
        }
        (Defect::DeliverEarly, Step::Probed { sequence, head, message, .. }) => {
            // The history of a moment ago.
            *head = *sequence - 1;
            *message = None;
        }
        (Defect::Forget, Step::Acknowledged { message, .. }) => {
            *message = Digest::new(1, u64::MAX, b"acknowledged and not stored");
        }
        (Defect::Leak, _) => world.steps.insert(at, Step::Leaked { user: 1 }),
        (Defect::LeakAfterLeaving, &mut Step::Left { reader }) => {
            let place = world.seats[reader].place;
            let sequence = world.logs[place].len() as u64;
            let message = world.at(place, sequence);
            world.steps.insert(at + 1, Step::Delivered { reader, sequence, message });
        }
        (Defect::StoreTwice, Step::EndHistory { place, head }) => {
            let place = *place;
            *head += 1;
            let sequence = *head;
            let message = world.at(place, 1);
            world.steps.insert(at, Step::History { place, sequence, message });
        }
        (defect, step) => panic!("{defect:?} cannot be done to {step:?}"),
    }
    true
}

fn audit(steps: &[Step]) -> Audit {
    let mut audit = Audit::default();
    let places = [audit.channel("first"), audit.channel("second")];
    let mut readers: Vec<Reader> = Vec::new();
    for step in steps {
        match *step {
            Step::Subscribed { place, head } => {
                let user = readers.len() as u32;
                readers.push(audit.subscribed(user, places[place], head));
            }
            Step::Publishing { place, message } => audit.publishing(places[place], message),
            Step::Acknowledged { place, sequence, message } => {
                audit.acknowledged(places[place], sequence, message);
            }
            Step::Delivered { reader, sequence, message } => {
                audit.delivered(readers[reader], sequence, message);
            }
            Step::Skipped { reader, from, to } => audit.skipped(readers[reader], from, to),
            Step::Leaving { reader } => audit.leaving(readers[reader]),
            Step::Left { reader } => audit.left(readers[reader]),
            Step::GivenUp { reader } => audit.given_up(readers[reader]),
            Step::Leaked { user } => audit.leaked(user, 1, 1),
            Step::Probed { place, sequence, head, message } => {
                audit.probed(places[place], sequence, head, message);
            }
            Step::GoOnWithHistory => audit.go_on_with_history(),
            Step::BeginHistory => audit.begin_history(),
            Step::History { place, sequence, message } => {
                audit.history(places[place], sequence, message);
            }
            Step::EndHistory { place, head } => audit.end_history(places[place], head),
            Step::EndDelivery { place, head } => {
                audit.end_delivery(places[place], head);
            }
        }
    }
    audit
}

proptest! {
    #[test]
    fn a_sound_run_has_no_violation(seed: u64) {
        let world = World::run(seed);
        let audit = audit(&world.steps);
        prop_assert_eq!(audit.findings().evidence, Vec::<String>::new());
        let findings = audit.findings();
        prop_assert_eq!((findings.violations, findings.lost, findings.acknowledged_lost), (0, 0, 0));
        for (place, log) in world.logs.iter().enumerate() {
            prop_assert!(audit.is_complete(Place(place as u32), log.len() as u64));
        }
    }

    #[test]
    fn one_defect_of_any_kind_is_found(seed: u64, which in 0..DEFECTS.len()) {
        let mut world = World::run(seed);
        let defect = DEFECTS[which];
        prop_assume!(spoil(&mut world, defect));
        let findings = audit(&world.steps).findings();
        prop_assert!(findings.violations > 0, "{:?} was not found", defect);
        prop_assert!(!findings.evidence.is_empty());
        match defect {
            Defect::Drop => prop_assert_eq!(findings.lost, 1),
            Defect::Duplicate | Defect::Swap | Defect::Leak => prop_assert_eq!(findings.lost, 0),
            _ => {}
        }
    }
}
