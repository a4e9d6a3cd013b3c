use std::time::Duration;

use super::*;

#[test]
fn fills_go_up_by_about_three_and_end_where_they_are_to() {
    let all = [10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000];
    assert_eq!(fills(10_000, 10_000_000), all);
    assert_eq!(fills(10_000, 50_000), [10_000, 30_000, 50_000]);
    assert_eq!(fills(10_000, 10_000), [10_000]);
    // Every page is full at each of them.
    assert!(all.iter().all(|it| it.is_multiple_of(PAGE * PAGE)));
}

#[test]
fn a_fill_that_would_leave_a_page_half_empty_is_refused() {
    use clap::Parser as _;
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }
    let check = |arguments: &str| {
        Line::try_parse_from(["x"].into_iter().chain(arguments.split_whitespace()))
            .unwrap()
            .flags
            .check()
            .map_err(|error| error.to_string())
    };
    assert_eq!(check(""), Ok(()));
    assert_eq!(check("--messages 25000 --small 2500 --channels 100"), Ok(()));
    assert!(check("--small 1000").unwrap_err().contains("multiples of 2500"));
    assert!(check("--messages 5000").unwrap_err().contains("more than --messages"));
    assert!(check("--channels 60").unwrap_err().contains("multiple of 50"));
    assert!(check("--rate 0").unwrap_err().contains("--rate"));
}

/// Waits of 10 ms and of so many at the large server, in each slice.
fn slices(large_ms: &[u64]) -> Vec<[Waits; 2]> {
    let waits = |ms| {
        let mut waits = Waits::new();
        for ask in Ask::ALL {
            waits.record(ask, Duration::from_millis(ms));
        }
        waits
    };
    large_ms.iter().map(|ms| [waits(10), waits(*ms)]).collect()
}

fn step(messages: u64, large_ms: &[u64]) -> Step {
    let slices = slices(large_ms);
    Step {
        messages,
        channels: 200,
        filled_per_s: 123_456.0,
        data_bytes: 3 << 20,
        resident_bytes: 30 << 20,
        asked: Ask::ALL.map(|ask| Asked::of(ask, &slices)).to_vec(),
    }
}

#[test]
fn ratios_are_those_of_the_slices() {
    let step = step(10_000, &[10, 20, 15]);
    let ratio = step.asked[0].p99_ratio.unwrap();
    let near = |told: f64, exact: f64| (told - exact).abs() < 0.02;
    assert!(near(ratio.median, 1.5) && near(ratio.least, 1.0) && near(ratio.most, 2.0), "{ratio}");
    assert!(near(step.asked[0].large_ms[1], 20.0) && near(step.asked[0].small_ms[0], 10.0));
}

#[test]
fn the_table_and_the_plot_have_every_kind_at_every_fill() {
    let steps = [step(10_000, &[10]), step(30_000, &[20])];
    let text = page::text(&steps);
    for ask in Ask::ALL {
        assert!(text.contains(ask.name()), "{text}");
    }
    assert_eq!(text.matches("2.00 (2.00–2.00)").count(), 10, "{text}");
    assert!(text.contains("30,000 messages in 200 channels, filled at 123,456/s"), "{text}");
    let svg = page::svg(&steps);
    assert_eq!(svg.matches("messages stored").count(), Ask::ALL.len());
    assert!(svg.contains("GET …/messages, older"));
}

#[test]
fn files_of_folders_in_folders_count() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "123").unwrap();
    std::fs::create_dir(folder.path().join("b")).unwrap();
    std::fs::write(folder.path().join("b/c"), "12").unwrap();
    assert_eq!(folder_bytes(folder.path()).unwrap(), 5);
}
