use super::*;

fn turn(round: u32, way: Way, seconds: f64) -> Turn {
    let counts = Counts { bytes: 1_660, valid: 10, invalid: 0, added: 10, known: 0 };
    let is_server = way != Way::Python;
    Turn {
        round,
        way,
        seconds,
        records_per_s: 10.0 / seconds,
        counts,
        cpu_s: is_server.then_some(0.5),
        rested_bytes: is_server.then_some(20 << 20),
        peak_bytes: 60 << 20,
        complaint: None,
    }
}

#[test]
fn ratios_are_pythons_time_by_ours_in_each_round() {
    let turns = [
        turn(1, Way::File, 2.0),
        turn(1, Way::Requests, 4.0),
        turn(1, Way::Python, 6.0),
        turn(2, Way::Python, 9.0),
        turn(2, Way::File, 2.0),
        turn(3, Way::File, 1.0),
        turn(3, Way::Python, 5.0),
    ];
    let ratios = Ratios::of(&turns);
    let expected = Some(Spread { median: 4.5, least: 3.0, most: 5.0 });
    assert_eq!(ratios.python_by_file, expected);
    assert_eq!(ratios.python_by_requests.map(|it| (it.median, it.most)), Some((1.5, 1.5)));
    let text = text(&turns, &ratios);
    assert!(text.contains("one file 4.50 (3.00–5.00), requests 1.50 (1.50–1.50)"), "{text}");
    assert!(text.contains("60.0 MiB      20.0 MiB"), "{text}");
}

#[test]
fn what_was_imported_twice_has_two_rows() {
    let mut again = turn(2, Way::File, 1.0);
    (again.counts.added, again.counts.known) = (0, 10);
    let turns = [turn(1, Way::File, 2.0), again];
    let told = text(&turns, &Ratios::of(&turns));
    assert_eq!(told.lines().filter(|it| it.starts_with("one file")).count(), 2, "{told}");
}

#[test]
fn a_complaint_is_told() {
    let wrong = Turn { complaint: Some("5 is not 6".to_owned()), ..turn(2, Way::Python, 1.0) };
    let wrong = std::slice::from_ref(&wrong);
    let told = text(wrong, &Ratios::of(wrong));
    assert!(told.contains("WRONG: python in round 2: 5 is not 6"), "{told}");
}

#[test]
fn a_size_is_a_number_with_a_binary_unit() {
    let sizes = ["2GiB", "500MiB", "3KiB", "7B", "8"].map(|it| parse_size(it).unwrap());
    assert_eq!(sizes, [2 << 30, 500 << 20, 3 << 10, 7, 8]);
    for wrong in ["", "GiB", "2GB", "-1", "0", "99999999999GiB", "1.5GiB", "é"] {
        assert!(parse_size(wrong).is_err(), "{wrong}");
    }
}
