//! The loop: waits for sockets and for the clock, reads, lets the users act, writes. Hot.
//!
//! It owns the sockets and nothing else of the users. A turn reads a bounded amount of each socket,
//! between looks at what is due, so that a flood does not make the publishers late.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, net::TcpStream, unix::SourceFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::sync::mpsc::Sender;

use super::{
    Event, Order, Plan,
    conduct::Course,
    socket::{self, Origin},
    storm::Tempest,
    timers::{Due, RUN, Timer},
    user::{Kind, SLOW_READ_PAUSE, Side, User, Want},
    world::World,
};

/// Sockets that are read between two looks at the timers.
pub(crate) const EVENTS_PER_TURN: usize = 256;
/// The one buffer that all sockets are read into.
pub(crate) const READ_BYTES: usize = 256 * 1024;
/// Reads of one socket in one turn.
pub(crate) const READS_PER_TURN: usize = 4;
/// Timers between two looks at the sockets.
const TIMERS_PER_TURN: usize = 1024;
/// Orders that wait for the thread. One more is lost: the conductor gives a few in a whole run.
const ORDERS_MAX: usize = 16;
/// The longest sleep, should a timer of the kernel fail to wake it.
const SLEEP_MAX: Duration = Duration::from_secs(1);

const WAKER: Token = Token(0);
const CLOCK: Token = Token(1);
/// The sockets follow: two of each user.
pub(super) const SOCKETS: usize = 2;

/// A socket, if it is open.
#[derive(Debug, Default)]
pub(super) struct Port {
    stream: Option<TcpStream>,
    is_connecting: bool,
    /// Whether it is among the unread ones.
    is_unread: bool,
    /// Whether the other side has closed: then it is read to its end, since no edge comes any more.
    is_closed: bool,
}

/// All of the thread.
#[derive(Debug)]
pub(super) struct EventLoop {
    pub(super) poll: Poll,
    /// Wakes the loop to the microsecond. The time-out of `epoll_wait` counts in milliseconds.
    clock: OwnedFd,
    clock_us: u64,
    began: Instant,
    orders: Receiver<Order>,
    pub(super) events: Sender<Event>,
    pub(super) users: Vec<User>,
    pub(super) ports: Vec<Port>,
    pub(super) world: World,
    pub(super) course: Course,
    /// Logins beside the users. Their sockets come after all ports.
    pub(super) storm: Option<Box<Tempest>>,
    pub(super) buffer: Vec<u8>,
    /// Sockets that had more than one turn may read.
    unread: VecDeque<usize>,
    /// Users who may have something to write, each once.
    touched: Vec<u32>,
    is_touched: Vec<bool>,
}

/// What the conductor keeps of the thread.
pub(super) type Handles = (SyncSender<Order>, Arc<Waker>);

impl EventLoop {
    pub(super) fn new(plan: Plan, events: Sender<Event>) -> anyhow::Result<(Self, Handles)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let clock = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        poll.registry().register(&mut SourceFd(&clock.as_raw_fd()), CLOCK, Interest::READABLE)?;
        let (sender, orders) = sync_channel(ORDERS_MAX);
        let world = World::new(plan);
        let scenario = &world.plan.scenario;
        let storm = scenario.storm.clone();
        let storm = storm.map(|it| Box::new(Tempest::new(it, scenario.seed)));
        let first_slow = scenario.users.saturating_sub(scenario.slow_readers.users);
        let kind = |number| match number {
            _ if number == scenario.users => Kind::Witness,
            _ if number >= first_slow => Kind::Slow,
            _ => Kind::Ordinary,
        };
        let users: Vec<_> =
            (0..=scenario.users).map(|number| User::new(number, kind(number), &world)).collect();
        let it = Self {
            poll,
            clock,
            clock_us: 0,
            began: Instant::now(),
            orders,
            events,
            ports: std::iter::repeat_with(Port::default).take(2 * users.len()).collect(),
            is_touched: vec![false; users.len()],
            touched: Vec::new(),
            users,
            course: Course::new(),
            storm,
            world,
            buffer: vec![0; READ_BYTES],
            unread: VecDeque::new(),
        };
        Ok((it, (sender, waker)))
    }

    /// Makes the run. The last event says how it ended, unless it was aborted.
    pub(super) fn run(mut self) {
        let mut kernel_events = Events::with_capacity(EVENTS_PER_TURN);
        self.begin();
        self.settle();
        while !self.is_over() {
            if let Err(error) = self.wait(&mut kernel_events) {
                self.world.fail(anyhow::Error::from(error).context("the loop cannot wait"));
            }
            self.read_clock();
            if self.take_orders() {
                return;
            }
            let has_all = self.take_timers();
            self.settle();
            for event in &kernel_events {
                let port = event.token().0.checked_sub(SOCKETS);
                if let Some(slot) = port.and_then(|port| port.checked_sub(self.ports.len())) {
                    self.slot_is_ready(slot);
                } else if let Some(port) = port {
                    let is_closed = event.is_read_closed() || event.is_error();
                    self.socket_is_ready(port, is_closed);
                }
            }
            for _ in 0..self.unread.len() {
                if let Some(port) = self.unread.pop_front() {
                    self.ports[port].is_unread = false;
                    self.read(port);
                }
            }
            self.settle();
            self.read_clock();
            if has_all {
                self.go_on();
            }
            self.let_witness_inquire();
            self.return_more();
            self.settle();
        }
        self.finish();
    }

    pub(super) fn read_clock(&mut self) {
        let us = self.began.elapsed().as_micros();
        self.world.now_us = u64::try_from(us).expect("no run lasts 500,000 years");
    }

    fn wait(&mut self, events: &mut Events) -> std::io::Result<()> {
        self.read_clock();
        let next_us = self.world.timers.next_at().unwrap_or(u64::MAX);
        let is_due = next_us <= self.world.now_us;
        if !is_due && next_us != self.clock_us && next_us != u64::MAX {
            self.set_clock(next_us)?;
        }
        let sleep = if is_due || !self.unread.is_empty() { Duration::ZERO } else { SLEEP_MAX };
        match self.poll.poll(events, Some(sleep)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    fn set_clock(&mut self, at_us: u64) -> std::io::Result<()> {
        let after = Duration::from_micros(at_us - self.world.now_us);
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: after.subsec_nanos().into(),
        };
        let spec = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&self.clock, TimerfdTimerFlags::empty(), &spec)?;
        self.clock_us = at_us;
        Ok(())
    }

    /// Answers whether to stop at once.
    fn take_orders(&mut self) -> bool {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Abort => return true,
                Order::ChaosBegins => self.world.chaos_us = Some(self.world.now_us),
                Order::Cut => self.cut_all(),
                Order::Return => self.let_return(),
            }
        }
        false
    }

    /// Answers whether all that is due was done.
    fn take_timers(&mut self) -> bool {
        for _ in 0..TIMERS_PER_TURN {
            let Some(timer) = self.world.timers.next_due(self.world.now_us) else { return true };
            match timer {
                Timer { user: RUN, .. } => self.timer_of_run(timer),
                Timer { due: Due::Read, .. } => self.read_slowly(timer),
                _ => {
                    self.users[timer.user as usize].timer(timer, &mut self.world);
                    self.touch(timer.user);
                    if matches!(timer.due, Due::Join | Due::Leave) {
                        self.activity_changed(timer.user);
                    }
                }
            }
        }
        false
    }

    /// This user may have something to write, or want something of its sockets.
    pub(super) fn touch(&mut self, user: u32) {
        if !std::mem::replace(&mut self.is_touched[user as usize], true) {
            self.touched.push(user);
        }
    }

    fn let_witness_inquire(&mut self) {
        if self.world.witness.is_curious() {
            let witness = self.world.witness_number();
            self.users[witness as usize].inquire(&mut self.world);
            self.touch(witness);
        }
    }

    /// One write per user and turn, and what it wants of its sockets.
    fn settle(&mut self) {
        // What fails touches its user again, who then waits before the next try.
        while let Some(user) = self.touched.pop() {
            self.is_touched[user as usize] = false;
            for side in [Side::Connection, Side::Door] {
                let port = 2 * user as usize + side as usize;
                match self.users[user as usize].take_want(side) {
                    Some(Want::Open) => {
                        self.open(port);
                        self.write(port);
                    }
                    Some(Want::Close) => {
                        self.write(port);
                        self.ports[port].stream = None;
                    }
                    None => self.write(port),
                }
            }
        }
    }

    fn open(&mut self, port: usize) {
        let (number, _) = of_port(port);
        let scenario = &self.world.plan.scenario;
        let origin = Origin {
            user: number,
            source_addresses: scenario.source_addresses,
            is_slow: self.users[number as usize].kind == Kind::Slow,
        };
        let token = Token(port + SOCKETS);
        let both = Interest::READABLE | Interest::WRITABLE;
        let opened = socket::open(self.world.plan.target(number).address, origin).and_then(
            |(mut stream, is_open)| {
                // Both for good: an edge comes only when something changes.
                self.poll.registry().register(&mut stream, token, both)?;
                Ok((stream, is_open))
            },
        );
        match opened {
            Ok((stream, is_open)) => {
                let is_unread = self.ports[port].is_unread;
                let (stream, is_connecting) = (Some(stream), !is_open);
                self.ports[port] = Port { stream, is_connecting, is_unread, is_closed: false };
            }
            Err(error) => self.broken(port, &error),
        }
    }

    /// Ends a connection without a word. What was not read of it is lost, and its port is free at
    /// once.
    pub(super) fn reset(&mut self, port: usize) {
        if let Some(stream) = self.ports[port].stream.take() {
            socket::reset(stream);
        }
    }

    fn write(&mut self, port: usize) {
        let (number, side) = of_port(port);
        let Port { stream: Some(stream), is_connecting: false, .. } = &mut self.ports[port] else {
            return;
        };
        let user = &mut self.users[number as usize];
        if user.out(side).is_empty() {
            return;
        }
        match stream.write(user.out(side)) {
            Ok(bytes) => user.written(side, bytes),
            Err(error) if is_later(&error) => {}
            Err(error) => self.broken(port, &error),
        }
    }

    fn socket_is_ready(&mut self, port: usize, is_closed: bool) {
        let (number, side) = of_port(port);
        let it = &mut self.ports[port];
        let Port { stream: Some(stream), is_connecting, .. } = it else { return };
        if *is_connecting {
            match stream.take_error() {
                Ok(Some(error)) | Err(error) => return self.broken(port, &error),
                // An event of the socket that was here before.
                Ok(None) if stream.peer_addr().is_err() => return,
                Ok(None) => *is_connecting = false,
            }
        }
        it.is_closed |= is_closed;
        self.touch(number);
        let user = &self.users[number as usize];
        // A slow reader learns of its end at once: what is left then is read for the reason.
        if side == Side::Door || is_closed || !user.reads_slowly(&self.world) {
            self.read(port);
        }
    }

    /// Reads what is there, up to a bound.
    fn read(&mut self, port: usize) {
        let (number, side) = of_port(port);
        self.touch(number);
        for _ in 0..READS_PER_TURN {
            let it = &mut self.ports[port];
            let Port { stream: Some(stream), is_connecting: false, is_closed, .. } = it else {
                return;
            };
            let is_closed = *is_closed;
            let bytes = match stream.read(&mut self.buffer) {
                Ok(0) => return self.broken(port, &ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if is_later(&error) => return,
                Err(error) => return self.broken(port, &error),
            };
            self.take(number, side, bytes);
            if self.users[number as usize].has_want(side) {
                return;
            }
            // A short read has emptied the socket; what comes later is another edge.
            if bytes < self.buffer.len() && !is_closed {
                return;
            }
        }
        self.read_later(port);
    }

    fn read_later(&mut self, port: usize) {
        if !std::mem::replace(&mut self.ports[port].is_unread, true) {
            self.unread.push_back(port);
        }
    }

    /// Gives a user what is in the buffer. One look at the clock for all of it.
    fn take(&mut self, number: u32, side: Side, bytes: usize) {
        self.read_clock();
        self.world.has_answered = true;
        let user = &mut self.users[number as usize];
        match side {
            Side::Connection => user.receive(&self.buffer[..bytes], &mut self.world),
            Side::Door => user.receive_at_door(&self.buffer[..bytes], &mut self.world),
        }
    }

    fn read_slowly(&mut self, timer: Timer) {
        let user = &self.users[timer.user as usize];
        let rate = self.world.plan.scenario.slow_readers.bytes_per_second;
        if rate == 0 || user.attempt() != timer.stamp || !user.reads_slowly(&self.world) {
            return;
        }
        self.touch(timer.user);
        let port = 2 * timer.user as usize;
        let share = u128::from(rate) * SLOW_READ_PAUSE.as_millis() / 1_000;
        let share = usize::try_from(share).unwrap_or(READ_BYTES).clamp(1, READ_BYTES);
        let Port { stream: Some(stream), .. } = &mut self.ports[port] else { return };
        match stream.read(&mut self.buffer[..share]) {
            Ok(0) => return self.broken(port, &ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => self.take(timer.user, Side::Connection, bytes),
            Err(error) if is_later(&error) => {}
            Err(error) => return self.broken(port, &error),
        }
        self.world.set_timer(SLOW_READ_PAUSE, timer.user, Due::Read, timer.stamp);
    }

    /// Slow readers hurry from now on.
    pub(super) fn read_slow_ones(&mut self) {
        for number in 0..self.users.len() {
            if self.users[number].kind == Kind::Slow {
                self.read_later(2 * number);
            }
        }
    }

    fn broken(&mut self, port: usize, error: &std::io::Error) {
        let (number, side) = of_port(port);
        self.ports[port].stream = None;
        self.users[number as usize].broken(side, error, &mut self.world);
        self.touch(number);
    }
}

/// Whose socket it is.
fn of_port(port: usize) -> (u32, Side) {
    let number = u32::try_from(port / 2).expect("two ports for each user, who has a u32");
    (number, if port.is_multiple_of(2) { Side::Connection } else { Side::Door })
}

pub(super) fn is_later(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected)
}
