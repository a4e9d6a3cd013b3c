//! A run as it could have been, for the tests of this folder: shaped like the reference workload,
//! with a kill in the middle. None of it was measured.

use crate::{
    outcome::{Figures, Incident, Judged, Outcome, PhaseSpan, Second, VERSION},
    scenario::{Scenario, schedule::Phase},
};

const PHASES: [(Phase, f64, f64); 7] = [
    (Phase::Login, 0.0, 16.0),
    (Phase::Idle, 16.0, 18.0),
    (Phase::RampUp, 18.0, 28.0),
    (Phase::Plateau, 28.0, 88.0),
    (Phase::RampDown, 88.0, 98.0),
    (Phase::Drain, 98.0, 100.0),
    (Phase::Audit, 100.0, 102.0),
];

pub(super) fn outcome() -> Outcome {
    let judged = |text: &str, value, holds| Judged { text: text.to_owned(), value, holds };
    let incident = |at, what: &str| Incident { at, what: what.to_owned() };
    Outcome {
        version: VERSION,
        server_version: Some("0.1.0".to_owned()),
        began_at: "2026-11-21T12:00:00Z".to_owned(),
        scenario: Scenario {
            name: "reference-425".to_owned(),
            about: "The hardest step of the reference report.".to_owned(),
            ..Scenario::default()
        },
        figures: figures(),
        percentiles_ms: [3.61, 4.24, 6.88],
        thresholds: vec![
            judged("deliver.p99<100ms", Some(6.88), true),
            judged("ack.p99<5ms", Some(5.93), false),
            judged("lost==0", Some(0.0), true),
            judged("server.rss_bytes_max<1GiB", Some(52_428_800.0), true),
            judged("gc.pauses==0", None, false),
        ],
        violations: 2,
        evidence: vec![
            "user 17, channel 1: sequence 4711 came twice".to_owned(),
            "user 203, channel 1: 4713 came before 4712".to_owned(),
        ],
        errors: [("connection reset by peer".to_owned(), 425), ("503 DRAINING".to_owned(), 12)]
            .into(),
        warnings: vec![
            "The generator used 97 % of its core in 3 seconds: it may have been the bottleneck."
                .to_owned(),
        ],
        phases: PHASES.map(|(phase, begins, ends)| PhaseSpan { phase, begins, ends }).to_vec(),
        seconds: (1..=102).map(second).collect(),
        curves: ["ack", "first", "last", "deliver"]
            .iter()
            .zip([2.1, 1.6, 3.4, 2.4])
            .map(|(&name, scale)| (name.to_owned(), curve(scale)))
            .collect(),
        server_threads: [
            ("hub-0", 41.2),
            ("io-0", 38.0),
            ("io-1", 36.5),
            ("sqlite", 12.4),
            ("auth-0", 0.3),
            ("hubbub", 0.1),
        ]
        .map(|(name, percent)| (name.to_owned(), percent))
        .into(),
        processes: [("hub-0".to_owned(), 70.0), ("nats-0".to_owned(), 31.5)].into(),
        chaos: vec![incident(52.0, "killed (SIGKILL)"), incident(52.4, "back")],
    }
}

/// The same for so many times as long, at so many seconds.
pub(super) fn long(times: u32) -> Outcome {
    let mut outcome = outcome();
    let seconds = outcome.seconds.clone();
    for round in 1..times {
        outcome.seconds.extend(
            seconds.iter().map(|second| Second {
                at: second.at + f64::from(round) * 102.0,
                ..second.clone()
            }),
        );
    }
    outcome.phases[3].ends = f64::from(times) * 102.0;
    outcome
}

fn figures() -> Figures {
    let mut figures = Figures::new();
    for (name, scale) in [
        ("handshake", 0.9),
        ("login", 95.0),
        ("subscribe", 0.7),
        ("reconnect", 43.0),
        ("storm.login", 410.0),
        ("storm.refusal", 3.3),
        ("calm.deliver", 2.3),
        ("storm.deliver", 2.9),
        ("ack", 2.1),
        ("first", 1.6),
        ("last", 3.4),
        ("deliver", 2.4),
    ] {
        let points = [
            ("p50", 0.8),
            ("p90", 1.5),
            ("p95", 1.77),
            ("p99", 2.87),
            ("p99.9", 5.1),
            ("p99.99", 9.4),
            ("max", 14.2),
        ];
        figures
            .insert(format!("{name}.count"), if name == "deliver" { 1_073_550.0 } else { 2_526.0 });
        figures.extend(points.map(|(point, factor)| (format!("{name}.{point}"), factor * scale)));
    }
    figures.extend(
        [
            ("users", 425.0),
            ("messages", 2_526.0),
            ("acks", 2_526.0),
            ("deliveries", 1_073_550.0),
            ("messages_per_s", 42.1),
            ("deliveries_per_s", 17_892.5),
            ("lost", 0.0),
            ("acknowledged_lost", 0.0),
            ("violations", 2.0),
            ("errors", 437.0),
            ("reconnects", 425.0),
            ("gaps", 0.0),
            ("unsent", 0.0),
            ("reconnect.cut", 425.0),
            ("reconnect.resumed", 425.0),
            ("reconnect.rate", 9_120.0),
            ("reconnect.replayed", 511.0),
            ("reconnect.hashes", 0.0),
            ("reconnect.server_us", 91.4),
            ("reconnect.hub_us", 20.1),
            ("reconnect.edge_us", 70.2),
            ("reconnect.generator_us", 44.0),
            ("reconnect.generator_percent", 40.1),
            ("storm.generator_percent", 13.2),
            ("storm.deliver_excess", -3.2),
            ("storm.capacity", 64.2),
            ("storm.offered", 1_283.0),
            ("storm.valid", 60.9),
            ("storm.valid_share", 0.95),
            ("storm.hashes", 64.0),
            ("storm.valid_by_hashes", 0.95),
            ("storm.denied", 61.0),
            ("storm.refused_429", 17.0),
            ("storm.refused_503", 24_300.0),
            ("storm.other_answers", 0.0),
            ("storm.unanswered", 0.0),
            ("storm.unsent", 0.0),
            ("storm.wrong", 0.0),
            ("server.rss_growth_bytes", 23_068_672.0),
            ("generator.cpu_percent", 48.2),
            ("generator.lag.p99", 0.21),
            ("generator.lag.max", 3.4),
            ("generator.dropped_samples", 0.0),
            ("server.cpu_percent", 128.4),
            ("server.hub_percent", 41.2),
            ("server.cpu_us_per_delivery", 71.8),
            ("server.hub_us_per_delivery", 23.0),
            ("server.rss_bytes", 48_234_496.0),
            ("server.rss_bytes_max", 52_428_800.0),
            ("server.bytes_per_connection", 21_504.0),
            ("server.bytes_per_further_connection", 20_480.0),
            ("server.context_switches_per_s", 12_345.0),
            ("server.fsyncs_per_s", 41.8),
            ("server.messages_per_batch", 1.01),
            ("server.wire_bytes_per_delivery", 98.4),
            ("server.deliveries_per_write", 1.02),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    figures
}

/// Noise between 0 and 1 that is the same in each run of the tests.
fn noise(at: u32, of: u32) -> f64 {
    f64::from(at.wrapping_mul(2_654_435_761).wrapping_add(of.wrapping_mul(40_503)) >> 16 & 0xff)
        / 255.0
}

fn second(at: u32) -> Second {
    let active = match at {
        ..=18 => 0,
        19..=28 => (at - 18) * 42,
        29..=88 => 425,
        89..=98 => (98 - at) * 42,
        _ => 0,
    };
    let connected = if at <= 16 { at * 425 / 16 } else { 425 };
    let is_down = at == 53;
    let connected = if is_down { 130 } else { connected };
    let messages = active / 10 + (noise(at, 1) * f64::from(active) / 30.0) as u32;
    let five = |scale: f64, of| {
        let wobble = 0.8 + 0.4 * noise(at, of);
        let shape = [0.8, 1.5, 1.77, 2.9, 6.0 + 8.0 * noise(at, of + 9)];
        let outage = if (53..=55).contains(&at) { 60.0 } else { 1.0 };
        (messages > 0 && !is_down).then(|| shape.map(|it| it * scale * wobble * outage))
    };
    Second {
        at: at.into(),
        connected,
        active,
        messages: messages.into(),
        acks: messages.into(),
        deliveries: u64::from(messages) * u64::from(connected),
        errors: if is_down { 437 } else { 0 },
        reconnects: if is_down { 425 } else { 0 },
        deliver: five(2.4, 3),
        ack: five(2.1, 5),
        login: (at <= 16).then_some([80.0, 120.0, 140.0, 180.0, 210.0]),
        lag_max: noise(at, 7),
        generator_cpu: 4.0 + f64::from(messages) * (1.0 + 0.1 * noise(at, 11)),
        server_cpu: (!is_down).then(|| {
            let logins = if at <= 16 { 96.0 } else { 1.5 };
            logins + f64::from(messages) * (2.6 + 0.3 * noise(at, 13))
        }),
        server_rss_bytes: Some(18_000_000 + u64::from(connected) * 70_000 + u64::from(at) * 20_000),
    }
}

/// A curve whose tail grows with each nine.
fn curve(scale: f64) -> Vec<[f64; 2]> {
    let mut curve: Vec<_> = (0..70)
        .map(|step| {
            let nines = f64::from(step) * 0.07;
            let quantile = 1.0 - 10_f64.powf(-nines);
            [quantile, scale * (0.5 + 0.5 * nines + 0.18 * nines.powi(3))]
        })
        .collect();
    curve.push([1.0, scale * 26.0]);
    curve
}
