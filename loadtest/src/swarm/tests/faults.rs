//! A server that does one thing wrong, and what the users say of it. Nothing of it may be silent,
//! and none of it may last.

use super::*;

/// The address of a server with a fault, and the server.
fn faulty(fault: Fault) -> (SocketAddr, Arc<Server>) {
    Server { fault, ..Server::default() }.start()
}

/// What the users of such a server bring home.
fn harvest_of(fault: Fault) -> Box<Harvest> {
    harvest(plan(faulty(fault).0, 100))
}

#[track_caller]
fn assert_found(harvest: &Harvest, sentence: &str) {
    assert_eq!(harvest.findings.violations, 1, "{harvest:?}");
    let first = &harvest.findings.evidence[0];
    assert!(first.contains(sentence), "{first}");
}

#[test]
fn a_publish_that_is_never_answered_is_found() {
    let harvest = harvest_of(Fault::Mute);
    assert_found(&harvest, "1 of its messages were not acknowledged until the end");
    assert_eq!((harvest.totals.unacknowledged, harvest.totals.acks), (1, 0));
    assert_eq!(harvest.errors["publish: not acknowledged in 30 s"], 1);
}

#[test]
fn who_gets_no_answer_for_long_connects_again_and_asks_again() {
    let (address, server) = faulty(Fault::Mute);
    let harvest = harvest(plan(address, 3_500));
    assert_eq!(harvest.errors["command: no answer in 60 s"], 1, "{harvest:?}");
    assert_eq!(*server.publishes.lock().unwrap(), [1, 1]);
}

#[test]
fn an_answer_to_nothing_is_found() {
    let harvest = harvest_of(Fault::AnswersTwice);
    assert_found(&harvest, "user 0: the server answered a command that was not sent");
}

#[test]
fn what_is_due_before_the_plateau_is_not_measured() {
    let (address, _) = faulty(Fault::None);
    let mut plan = plan(address, 0);
    let stage = |ms, target| Stage { duration: Duration::from_millis(ms), target };
    plan.scenario.stages = vec![stage(0, 1), stage(1_000, 2), stage(100, 2)];
    (plan.scenario.users, plan.scenario.publishers) = (2, Some(1));
    let harvest = harvest(plan);
    let Totals { messages, plateau_messages, .. } = harvest.totals;
    assert_eq!((messages, plateau_messages), (1, 0), "{harvest:?}");
    assert_eq!((harvest.latencies.ack.count(), harvest.latencies.deliver.count()), (0, 0));
}

#[test]
fn an_upgrade_that_is_answered_to_somebody_else_ends_the_run() {
    use std::io::{Read as _, Write as _};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        write!(stream, "HTTP/1.1 101 Switching Protocols\r\n{accept}\r\n\r\n").unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    });
    let said = failure(plan(address, 100));
    assert!(said.contains("another Sec-WebSocket-Accept"), "{said}");
    server.join().unwrap();
}

#[test]
fn a_publish_that_is_refused_for_good_is_found() {
    let harvest = harvest_of(Fault::Forbids);
    assert_found(&harvest, "user 0: a publish was refused");
    assert_eq!((harvest.totals.unacknowledged, harvest.totals.acks), (1, 0));
}

#[test]
fn who_leaves_without_what_was_acknowledged_is_found() {
    let mut plan = plan(faulty(Fault::Undelivered).0, 100);
    plan.scenario.stages.push(Stage { duration: Duration::from_millis(50), target: 0 });
    let harvest = harvest(plan);
    assert_found(&harvest, "missed: user 0 left channel test-0 with 0, though 1");
    assert_eq!(harvest.findings.lost, 1);
}

#[test]
fn a_message_that_is_stored_and_not_delivered_is_found_and_counted() {
    let harvest = harvest_of(Fault::Undelivered);
    assert_found(&harvest, "missed: user 0 got channel test-0 up to 0");
    assert_eq!((harvest.findings.lost, harvest.totals.deliveries), (1, 0));
}

#[test]
fn who_is_told_of_a_gap_has_missed_nothing_and_the_gap_is_counted() {
    let harvest = harvest_of(Fault::Gaps);
    assert_eq!((harvest.totals.gaps, harvest.findings.violations), (1, 0), "{harvest:?}");
    assert_eq!((harvest.findings.lost, harvest.totals.deliveries), (0, 0));
}

#[test]
fn a_gap_in_a_channel_that_it_is_not_in_is_a_leak() {
    assert_found(&harvest_of(Fault::ForeignGap), "leak: user 0 got 1 of the channel with id 9");
}

#[test]
fn an_acknowledgement_that_comes_while_its_publisher_leaves_is_one() {
    let mut plan = plan(faulty(Fault::LateAcknowledgement).0, 100);
    plan.scenario.stages.push(Stage { duration: Duration::from_millis(50), target: 0 });
    let harvest = harvest(plan);
    assert_eq!((harvest.totals.acks, harvest.findings.violations), (1, 0), "{harvest:?}");
    assert_eq!(harvest.errors["leave: not acknowledged in 5 s"], 1);
    assert_eq!(harvest.totals.unacknowledged, 0);
}

#[test]
fn what_is_acknowledged_while_history_is_read_is_looked_for_in_it() {
    let harvest = harvest_of(Fault::ForgetsInAudit);
    assert_found(&harvest, "lost: 1 of channel test-0 was acknowledged");
    assert_eq!(harvest.findings.acknowledged_lost, 1);
}

#[test]
fn who_is_not_let_in_again_is_found_although_nothing_was_missed() {
    let close_code = Mutex::new(Some(4001));
    let fault = Fault::ShutsOut;
    let (address, _) = Server { fault, close_code, ..Server::default() }.start();
    let mut plan = plan(address, 100);
    plan.scenario.publish = Publish::Nothing;
    assert_found(&harvest(plan), "it had no connection at the end");
}

#[test]
fn who_comes_back_after_the_end_of_the_load_is_waited_for() {
    let close_code = Mutex::new(Some(1012));
    let close_reason = r#"{"retry_after_ms":500}"#;
    let (address, server) = Server { close_reason, close_code, ..Server::default() }.start();
    let mut plan = plan(address, 100);
    plan.scenario.publish = Publish::Nothing;
    let harvest = harvest(plan);
    assert_eq!((harvest.findings.violations, harvest.totals.reconnects), (0, 1), "{harvest:?}");
    assert_eq!(server.resumed.lock().unwrap().len(), 1);
}

#[test]
fn who_never_got_into_its_channels_is_counted() {
    let mut plan = plan(faulty(Fault::AdmitsNobody).0, 100);
    // The user is put off until it is to leave.
    (plan.scenario.login, plan.tokens) = (Login::During, None);
    plan.scenario.stages.push(Stage { duration: Duration::from_millis(50), target: 0 });
    let harvest = harvest(plan);
    assert_eq!((harvest.totals.never_connected, harvest.findings.violations), (1, 0));
    assert_eq!(harvest.errors["login: 503"], 1);
}

#[test]
fn who_is_still_put_off_at_the_end_is_counted() {
    let mut plan = plan(faulty(Fault::AdmitsNobody).0, 100);
    (plan.scenario.login, plan.tokens) = (Login::During, None);
    let harvest = harvest(plan);
    assert_eq!((harvest.totals.never_connected, harvest.findings.violations), (1, 0));
}

#[test]
fn a_server_that_lets_nobody_in_is_not_asked_by_everybody() {
    let mut plan = plan(faulty(Fault::TurnsAway).0, 100);
    (plan.scenario.users, plan.scenario.logins_max) = (9, 2);
    let harvest = harvest(plan);
    let (refused, left_out) = (harvest.findings.violations, harvest.totals.never_connected);
    assert!((2..=3).contains(&refused), "{harvest:?}");
    assert_eq!(refused + left_out, 9);
    assert!(harvest.findings.evidence[0].contains("subscribe was refused: 203 forbidden"));
}

#[test]
fn a_login_that_is_put_off_waits_as_asked_and_counts_from_when_it_was_due() {
    let (address, _) = Server { busy: Mutex::new(1), ..Server::default() }.start();
    let mut plan = plan(address, 5_000);
    (plan.scenario.login, plan.tokens) = (Login::During, None);
    let harvest = harvest(plan);
    assert_eq!((harvest.errors["login: 503"], harvest.totals.acks), (1, 1), "{harvest:?}");
    // Of the user. The witness was not put off.
    assert_eq!(harvest.latencies.login.count(), 2);
    let longest = harvest.latencies.login.max();
    assert!(longest >= 2_000.0, "{longest} ms");
}

#[test]
fn what_is_due_beyond_what_may_be_under_way_is_left_out_and_counted() {
    let mut plan = plan(faulty(Fault::Mute).0, 400);
    plan.scenario.publish = Publish::Paced { rate_per_user: 2_000.0 };
    let Totals { messages, unsent, unacknowledged, .. } = harvest(plan).totals;
    assert_eq!((messages, unacknowledged), (256, 256));
    assert!((200..=800).contains(&unsent), "{unsent}");
}

#[test]
fn what_the_generator_costs_is_counted_with_and_without_a_plateau() {
    for target in [1, 0] {
        let mut plan = plan(faulty(Fault::None).0, 50);
        let stage = |ms, target| Stage { duration: Duration::from_millis(ms), target };
        plan.scenario.stages = vec![stage(0, 1), stage(50, target)];
        assert!(harvest(plan).totals.plateau_cpu > Duration::ZERO, "up to {target}");
    }
}

#[test]
fn a_ping_is_answered_with_what_it_brought() {
    let (address, server) = faulty(Fault::Pings);
    assert_eq!(harvest(plan(address, 200)).findings.violations, 0);
    let (pongs, patience) = (server.pongs.lock().unwrap(), Duration::from_secs(10));
    let pongs = server.has_closed.wait_timeout_while(pongs, patience, |it| it.is_empty());
    assert_eq!(*pongs.unwrap().0, [b"there?"]);
}

#[test]
fn a_sequence_that_none_can_have_is_found() {
    let harvest = harvest_of(Fault::LargestSequence);
    assert!(harvest.findings.violations >= 2, "{harvest:?}");
    assert!(harvest.findings.evidence[0].starts_with("absurd: user 0 has 18446744073709551615"));
}

#[test]
fn bytes_that_are_no_message_are_found() {
    let harvest = harvest_of(Fault::Garbage);
    assert!(harvest.findings.violations >= 1, "{harvest:?}");
    assert!(harvest.findings.evidence[0].contains("bytes that are no envelope"), "{harvest:?}");
}

#[test]
fn a_slow_reader_that_is_closed_for_good_is_found() {
    let close_code = Mutex::new(Some(4503));
    let (address, _) = Server { close_code, ..Server::default() }.start();
    let mut plan = plan(address, 100);
    plan.scenario.slow_readers = SlowReaders { users: 1, bytes_per_second: 1_000 };
    let harvest = harvest(plan);
    assert_found(&harvest, "the server closed with 4503");
    assert_eq!(harvest.totals.slow_closed, 0);
}

#[test]
fn a_slow_reader_comes_back_after_chaos() {
    let close_code = Mutex::new(Some(1012));
    let (address, server) = Server { close_code, ..Server::default() }.start();
    let mut plan = plan(address, 200);
    plan.scenario.slow_readers = SlowReaders { users: 1, bytes_per_second: 1_000 };
    let (sender, mut events) = mpsc::channel(64);
    let (event_loop, (orders, _waker)) = EventLoop::new(plan, sender).unwrap();
    orders.try_send(Order::ChaosBegins).unwrap();
    let swarm = thread::spawn(move || event_loop.run());
    let last = std::iter::from_fn(|| events.blocking_recv()).last().unwrap();
    swarm.join().unwrap();
    let Event::Over(harvest) = last else { panic!("{last:?}") };
    assert_eq!((harvest.totals.slow_closed, harvest.totals.reconnects), (0, 1), "{harvest:?}");
    assert_eq!(server.resumed.lock().unwrap().len(), 1);
}

/// What the users of this server bring home, who all lose their connections once on the plateau.
fn cut_off(server: Server, publish: Publish) -> (Box<Harvest>, Arc<Server>) {
    let (address, server) = server.start();
    let mut plan = plan(address, 600);
    plan.scenario.publish = publish;
    let (sender, mut events) = mpsc::channel(64);
    let swarm = spawn(plan, sender).unwrap();
    let (mut last, mut returned) = (None, 0);
    while let Some(event) = events.blocking_recv() {
        match &event {
            // Order matters, and there is none between phases and what becomes of a publish.
            Event::Phase(Phase::Plateau, _) => {
                let is_there = || server.log.lock().unwrap().len() == 1;
                while !matches!(publish, Publish::Nothing) && !is_there() {
                    thread::yield_now();
                }
                swarm.order(Order::Cut);
                swarm.order(Order::Return);
            }
            Event::Returned => returned += 1,
            _ => {}
        }
        last = Some(event);
    }
    swarm.join();
    let Some(Event::Over(harvest)) = last else { panic!("{last:?}") };
    let is_back = harvest.returns.resumed == harvest.returns.cut;
    assert_eq!(returned, u32::from(is_back), "{:?}", harvest.returns);
    (harvest, server)
}

#[test]
fn who_is_cut_off_comes_back_to_its_position_and_is_counted() {
    let publish = Publish::Closed { think_time: Duration::from_secs(3_600) };
    let (harvest, server) = cut_off(Server::default(), publish);
    let Returns { cut, resumed, time, .. } = harvest.returns;
    assert_eq!((cut, resumed, harvest.findings.violations), (1, 1, 0), "{harvest:?}");
    assert!(!time.is_zero());
    assert_eq!((harvest.latencies.reconnect.count(), harvest.totals.reconnects), (1, 1));
    assert_eq!(harvest.errors.len(), 0, "nobody was at fault: {harvest:?}");
    let resumed = server.resumed.lock().unwrap();
    assert_eq!((resumed.len(), resumed[0].epoch), (1, EPOCH));
}

#[test]
fn who_was_cut_off_and_is_not_let_in_again_is_found() {
    let server = Server { fault: Fault::Once, ..Server::default() };
    let (harvest, _) = cut_off(server, Publish::Nothing);
    assert_found(&harvest, "it had no connection at the end");
    assert_eq!((harvest.returns.cut, harvest.returns.resumed), (1, 0));
}

#[test]
fn a_server_that_makes_no_channel_ends_the_run() {
    let said = failure(plan(faulty(Fault::NoChannels).0, 100));
    assert!(said.contains("made no channel"), "{said}");
}

#[test]
fn a_server_that_answers_nothing_of_history_ends_the_run() {
    let said = failure(plan(faulty(Fault::NoHistory).0, 100));
    assert!(said.contains("answered nothing of history"), "{said}");
}

#[test]
fn a_history_without_an_end_is_read_no_further_than_there_can_be_messages() {
    let harvest = harvest_of(Fault::EndlessHistory);
    assert!(harvest.findings.violations > 0);
    let evidence = &harvest.findings.evidence;
    assert!(evidence.iter().any(|it| it.starts_with("foreign: ")), "{evidence:?}");
    assert!(evidence.iter().any(|it| it.starts_with("cut short: ")), "{evidence:?}");
}

/// What becomes of a storm at a server that gives a token to whoever asks.
fn storm_at_a_credulous_server(fault: Fault, keep_alive: bool, valid: f64) -> Box<Harvest> {
    let ms = Duration::from_millis;
    let mut plan = plan(faulty(fault).0, 2_700);
    plan.scenario.storm = Some(Storm {
        rate: Rate::PerSecond(100.0),
        valid,
        accounts: 3,
        addresses: 5,
        keep_alive,
        calm: ms(100),
        probe: ms(100),
        probe_requests: 1,
        lasts: ms(400),
        ..Storm::default()
    });
    harvest(plan)
}

#[test]
fn a_storm_of_valid_logins_is_counted_with_and_without_new_connections() {
    // A connection that is kept may be closed while it waits, and is no fault of the server's.
    let cases = [(Fault::None, false), (Fault::None, true), (Fault::HangsUp, true)];
    for (fault, keep_alive) in cases {
        let harvest = storm_at_a_credulous_server(fault, keep_alive, 1.0);
        let (stormed, parts) = harvest.storm.as_deref().unwrap();
        assert_eq!((harvest.findings.violations, stormed.wrong), (0, 0), "{harvest:?}");
        assert!(stormed.capacity > 0.0 && stormed.offered > 10, "{stormed:?}");
        let answered = stormed.login.count();
        assert_eq!((answered, stormed.unsent, stormed.unanswered), (stormed.offered, 0, 0));
        assert!(stormed.valid > 0 && stormed.valid <= answered, "{stormed:?}");
        // The one message was due when the plateau began, or a little before.
        assert!(parts.calm.count() <= 1 && parts.storm.count() == 0, "{parts:?}");
    }
}

#[test]
fn a_token_for_somebody_that_there_is_not_is_found() {
    let harvest = storm_at_a_credulous_server(Fault::None, false, 0.0);
    let (stormed, _) = harvest.storm.as_deref().unwrap();
    assert_eq!((stormed.wrong, stormed.login.count()), (stormed.offered, 0));
    assert_eq!(harvest.findings.violations, stormed.wrong);
    let first = &harvest.findings.evidence[0];
    assert!(first.starts_with("misjudged: a login of Stranger("), "{first}");
}

#[test]
fn what_a_storm_cannot_send_is_its_own_fault_and_counted() {
    // Nobody answers logins but those of the accounts, one at a time.
    let mut plan = plan(faulty(Fault::None).0, 2_700);
    plan.scenario.storm = Some(Storm {
        rate: Rate::PerSecond(20_000.0),
        accounts: 1,
        requests_max: 1,
        calm: Duration::from_millis(100),
        probe: Duration::from_millis(100),
        probe_requests: 1,
        lasts: Duration::from_millis(200),
        valid: 1.0,
        ..Storm::default()
    });
    let harvest = harvest(plan);
    let (stormed, _) = harvest.storm.as_deref().unwrap();
    assert!(stormed.unsent > 0 && stormed.login.count() > 0, "{stormed:?}");
    assert_eq!(stormed.unsent + stormed.login.count(), stormed.offered, "{stormed:?}");
}
