use super::*;

fn turn(round: u32, contender: Contender, accepted_per_s: f64) -> Turn {
    let posted = Posted {
        seconds: 5.0,
        accepted: 1_000,
        refused: 0,
        unanswered: 0,
        accepted_per_s,
        latency_ms: [1.0, 2.0, 3.0, 4.0],
    };
    let (cpu_us_per_post, server_percent, stored) = (40.0, 80.0, 1_005);
    Turn { round, contender, posted, cpu_us_per_post, server_percent, stored, complaint: None }
}

#[test]
fn ratios_are_those_of_the_rounds_and_not_of_the_medians() {
    let turns = [
        turn(1, Contender::Hubbub, 20_000.0),
        turn(1, Contender::Python, 10_000.0),
        turn(2, Contender::Python, 5_000.0),
        turn(2, Contender::Hubbub, 15_000.0),
        turn(3, Contender::Hubbub, 20_000.0),
        turn(3, Contender::Python, 8_000.0),
    ];
    let ratios = Ratios::of(&turns);
    assert_eq!(ratios.accepted_per_s, Some(Spread { median: 2.5, least: 2.0, most: 3.0 }));
    let text = text(&turns, &ratios);
    assert!(text.contains("posts/s 2.50 (2.00–3.00), p99 1.00 (1.00–1.00)"), "{text}");
    assert!(text.contains("hubbub   20,000    1.00  2.00  3.00  4.00"), "{text}");
}

#[test]
fn a_wrong_message_an_error_and_an_answer_that_did_not_come_are_not_right() {
    let right = turn(1, Contender::Hubbub, 1.0);
    assert!(right.is_right());
    let mut wrong = [right.clone(), right.clone(), right.clone()];
    wrong[0].complaint = Some("sequence 4 stands where 3 should".to_owned());
    wrong[1].posted.refused = 1;
    wrong[2].posted.unanswered = 1;
    assert!(wrong.iter().all(|it| !it.is_right()));
    let told = text(&wrong, &Ratios::of(&wrong));
    assert!(told.contains("WRONG: hubbub in round 1: sequence 4"), "{told}");
}

#[test]
fn the_services_log_is_read_up_to_its_last_whole_line() {
    let written = "{\"sequence\": 1}\n{\"sequence\": 2}\n{\"seq";
    assert_eq!(logged(written).unwrap(), [1, 2]);
    assert_eq!(logged("").unwrap(), [0; 0]);
    assert!(logged("{\"x\": 1}\n").is_err());
}

#[test]
fn wrk_counts_whole_seconds() {
    assert_eq!(parse_seconds("5s"), Ok(5));
    assert_eq!(parse_seconds("2m"), Ok(120));
    assert!(parse_seconds("1500ms").is_err() && parse_seconds("x").is_err());
}
