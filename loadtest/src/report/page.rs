//! A run as one self-contained HTML page: no script, no font, no image from elsewhere.

use std::fmt::{self, Write as _};

use super::{
    charts::{self, Chart, Panel},
    plot::Ink,
    words,
};
use crate::outcome::Outcome;

const STYLE: &str = include_str!("page.css");

/// The page. It refers to nothing outside itself but the flamegraphs beside it: a title and a path.
pub(crate) fn html(outcome: &Outcome, flamegraphs: &[(String, String)]) -> String {
    let mut page = String::with_capacity(256 * 1_024);
    write(&mut page, outcome, flamegraphs).expect("a string takes every line");
    page
}

fn write(page: &mut String, outcome: &Outcome, flamegraphs: &[(String, String)]) -> fmt::Result {
    let name = escaped(&outcome.scenario.name);
    writeln!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{name} – hubbub load test</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>"
    )?;
    head(page, outcome)?;
    tiles(page, outcome)?;
    warnings(page, outcome)?;
    thresholds(page, outcome)?;
    latencies(page, outcome)?;
    for (chart, at) in charts::of(outcome).iter().zip(0..) {
        plots(page, chart)?;
        if at == 0 {
            incidents(page, outcome)?;
        }
    }
    rows(page, "Reconnect", &words::rows(&outcome.figures, &words::RECONNECT))?;
    rows(page, "Storm", &words::rows(&outcome.figures, &words::STORM))?;
    rows(page, "Server", &words::rows(&outcome.figures, &words::SERVER))?;
    rows(page, "Generator", &words::rows(&outcome.figures, &words::GENERATOR))?;
    errors(page, outcome)?;
    evidence(page, outcome)?;
    flames(page, flamegraphs)?;
    scenario(page, outcome)?;
    writeln!(page, "</main>\n</body>\n</html>")
}

fn head(page: &mut String, outcome: &Outcome) -> fmt::Result {
    let verdict = words::Verdict::of(outcome);
    let class = if verdict.passed { "holds" } else { "broken" };
    writeln!(page, "<header>\n<p class=\"kind\">hubbub load test</p>")?;
    writeln!(page, "<h1>{}</h1>", escaped(&outcome.scenario.name))?;
    if !outcome.scenario.about.is_empty() {
        writeln!(page, "<p class=\"about\">{}</p>", escaped(&outcome.scenario.about))?;
    }
    writeln!(page, "<p class=\"meta\">{}", escaped(&words::workload(&outcome.scenario)))?;
    write!(page, "<br>began {}", escaped(&outcome.began_at))?;
    if let Some(version) = &outcome.server_version {
        write!(page, ", server {}", escaped(version))?;
    }
    writeln!(page, "</p>\n</header>")?;
    writeln!(
        page,
        "<section class=\"verdict {class}\" aria-label=\"Verdict\">\n\
         <p class=\"word\"><span aria-hidden=\"true\">{}</span> {}</p>\n<p>{}</p>\n</section>",
        words::mark(verdict.passed),
        verdict.word(),
        escaped(&verdict.why)
    )
}

fn tiles(page: &mut String, outcome: &Outcome) -> fmt::Result {
    let known = [
        ("users", "users"),
        ("messages_per_s", "messages per second"),
        ("deliveries_per_s", "deliveries per second"),
        ("deliver.p99", "delivery, p99"),
        ("ack.p99", "acknowledgement, p99"),
        ("lost", "deliveries lost"),
        ("server.cpu_percent", "server CPU (100 %: one core)"),
        ("server.rss_bytes_max", "server memory at most"),
    ];
    writeln!(page, "<section aria-label=\"Key figures\">\n<dl class=\"tiles\">")?;
    for (figure, label) in known {
        if let Some(&value) = outcome.figures.get(figure) {
            let value = words::figure(figure, value);
            let (number, unit) = value.split_once(' ').unwrap_or((&value, ""));
            writeln!(page, "<div><dt>{label}</dt><dd>{number} <small>{unit}</small></dd></div>")?;
        }
    }
    writeln!(page, "</dl>")?;
    let [p90, p95, p99] = outcome.percentiles_ms;
    write!(
        page,
        "<p class=\"percentiles\"><code>percentiles_ms=[{p90:.1},{p95:.1},{p99:.1}]</code> \
         of every delivery: p90, p95, p99"
    )?;
    if let Some([p90, p95, p99]) = words::reference(&outcome.scenario) {
        write!(
            page,
            "<br><code>percentiles_ms=[{p90},{p95},{p99}]</code> \
             the reference report, on its own machine"
        )?;
    }
    writeln!(page, "</p>\n</section>")
}

fn warnings(page: &mut String, outcome: &Outcome) -> fmt::Result {
    if outcome.warnings.is_empty() {
        return Ok(());
    }
    writeln!(page, "<section class=\"warnings\">\n<h2>Warnings</h2>\n<ul>")?;
    for warning in &outcome.warnings {
        writeln!(page, "<li>{}</li>", escaped(warning))?;
    }
    writeln!(page, "</ul>\n</section>")
}

fn thresholds(page: &mut String, outcome: &Outcome) -> fmt::Result {
    if outcome.thresholds.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "<section>\n<h2>Thresholds</h2>\n<div class=\"scroll\"><table class=\"thresholds\">\n\
         <thead><tr><th scope=\"col\">what must hold</th><th scope=\"col\" class=\"n\">measured</th>\
         <th scope=\"col\">verdict</th></tr></thead>\n<tbody>"
    )?;
    for judged in &outcome.thresholds {
        let (class, verdict) =
            if judged.holds { ("holds", "holds") } else { ("broken", "does not hold") };
        let figure = words::threshold_figure(&judged.text);
        let value = judged.value.map(|value| words::figure(figure, value));
        writeln!(
            page,
            "<tr class=\"{class}\"><th scope=\"row\"><code>{}</code></th><td class=\"n\">{}</td>\
             <td class=\"verdict\"><span aria-hidden=\"true\">{}</span> {verdict}</td></tr>",
            escaped(&judged.text),
            value.as_deref().unwrap_or("not measured"),
            words::mark(judged.holds),
        )?;
    }
    writeln!(page, "</tbody>\n</table></div>\n</section>")
}

fn latencies(page: &mut String, outcome: &Outcome) -> fmt::Result {
    let figure = |name: &str, what: &str| outcome.figures.get(&format!("{name}.{what}")).copied();
    let known: Vec<_> =
        words::LATENCIES.iter().filter(|(name, _)| figure(name, "count").is_some()).collect();
    if known.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "<section>\n<h2>Latency</h2>\n<p class=\"note\">In milliseconds. Due: \
         when the schedule wanted a message sent, whether or not the generator was in time.</p>\n\
         <div class=\"scroll\"><table class=\"latency\">\n<thead><tr><th scope=\"col\"></th>"
    )?;
    for column in words::COLUMNS {
        writeln!(page, "<th scope=\"col\" class=\"n\">{column}</th>")?;
    }
    writeln!(page, "<th scope=\"col\" class=\"n\">count</th></tr></thead>\n<tbody>")?;
    for (name, meaning) in known {
        write!(page, "<tr><th scope=\"row\">{name}<small>{meaning}</small></th>")?;
        for column in words::COLUMNS {
            let value = figure(name, column).map_or_else(|| "–".to_owned(), words::ms);
            write!(page, "<td class=\"n\">{value}</td>")?;
        }
        let count = words::grouped(figure(name, "count").unwrap_or_default());
        writeln!(page, "<td class=\"n count\">{count}</td></tr>")?;
    }
    writeln!(page, "</tbody>\n</table></div>\n</section>")
}

fn plots(page: &mut String, chart: &Chart) -> fmt::Result {
    writeln!(page, "<section class=\"chart\">\n<h2>{}</h2>", chart.title)?;
    writeln!(page, "<p class=\"note\">{}</p>", chart.note)?;
    for Panel { name, legend, svg } in &chart.panels {
        writeln!(page, "<figure>")?;
        if !name.is_empty() || !legend.is_empty() {
            writeln!(page, "<figcaption>")?;
            if !name.is_empty() {
                writeln!(page, "<h3>{name}</h3>")?;
            }
            for (line, ink) in legend {
                swatch(page, line, *ink)?;
            }
            writeln!(page, "</figcaption>")?;
        }
        writeln!(page, "<div class=\"scroll\">{svg}</div>\n</figure>")?;
    }
    writeln!(page, "</section>")
}

/// A line's name with a piece of the line: its colour and its dash.
fn swatch(page: &mut String, line: &str, ink: Ink) -> fmt::Result {
    writeln!(
        page,
        "<span class=\"swatch\"><svg viewBox=\"0 0 80 20\" aria-hidden=\"true\">\
         <line x1=\"0\" y1=\"10\" x2=\"80\" y2=\"10\" stroke=\"{}\" stroke-width=\"3\"/></svg>{line}</span>",
        ink.hex()
    )
}

fn incidents(page: &mut String, outcome: &Outcome) -> fmt::Result {
    if outcome.chaos.is_empty() {
        return Ok(());
    }
    writeln!(page, "<section>\n<h2>What was done to the server</h2>\n<ol class=\"incidents\">")?;
    for incident in &outcome.chaos {
        let what = escaped(&incident.what);
        writeln!(page, "<li><span class=\"at\">{:.1} s</span> {what}</li>", incident.at)?;
    }
    writeln!(page, "</ol>\n</section>")
}

fn rows(page: &mut String, title: &str, rows: &[(&str, String)]) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(page, "<section>\n<h2>{title}</h2>\n<dl class=\"rows\">")?;
    for (label, value) in rows {
        writeln!(page, "<div><dt>{label}</dt><dd>{value}</dd></div>")?;
    }
    writeln!(page, "</dl>\n</section>")
}

fn errors(page: &mut String, outcome: &Outcome) -> fmt::Result {
    if outcome.errors.is_empty() {
        return Ok(());
    }
    let mut errors: Vec<_> = outcome.errors.iter().collect();
    errors.sort_by_key(|error| std::cmp::Reverse(error.1));
    writeln!(page, "<section>\n<h2>Errors</h2>\n<dl class=\"rows\">")?;
    for (what, &times) in errors {
        let times = words::grouped(words::count(times));
        writeln!(page, "<div><dt>{}</dt><dd>{times}</dd></div>", escaped(what))?;
    }
    writeln!(page, "</dl>\n</section>")
}

fn evidence(page: &mut String, outcome: &Outcome) -> fmt::Result {
    if outcome.violations == 0 {
        return Ok(());
    }
    let all = words::grouped(words::count(outcome.violations));
    writeln!(page, "<section class=\"evidence\">\n<h2>Violations</h2>")?;
    let shown = outcome.evidence.len();
    writeln!(page, "<p class=\"note\">{all} in all; the first {shown}:</p>\n<ul>")?;
    for sentence in &outcome.evidence {
        writeln!(page, "<li>{}</li>", escaped(sentence))?;
    }
    writeln!(page, "</ul>\n</section>")
}

fn flames(page: &mut String, flamegraphs: &[(String, String)]) -> fmt::Result {
    if flamegraphs.is_empty() {
        return Ok(());
    }
    writeln!(page, "<section class=\"flames\">\n<h2>Flamegraphs</h2>")?;
    for (title, path) in flamegraphs {
        let (title, path) = (escaped(title), reference(path));
        writeln!(
            page,
            "<figure>\n<figcaption><h3><a href=\"{path}\">{title}</a></h3></figcaption>\n\
             <a href=\"{path}\"><img src=\"{path}\" alt=\"Flamegraph: {title}\"></a>\n</figure>"
        )?;
    }
    writeln!(page, "</section>")
}

fn scenario(page: &mut String, outcome: &Outcome) -> fmt::Result {
    let text = toml::to_string_pretty(&outcome.scenario)
        .or_else(|_| serde_json::to_string_pretty(&outcome.scenario).map_err(|_| fmt::Error))?;
    writeln!(
        page,
        "<section>\n<details>\n<summary>The scenario</summary>\n<pre><code>{}</code></pre>\n\
         </details>\n</section>",
        escaped(&text)
    )
}

/// Text as it may stand in an element or an attribute.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // No page may hold these, and a terminal's colours would be among them.
            control if control.is_control() && !matches!(control, '\n' | '\t') => {
                escaped.push('\u{fffd}')
            }
            other => escaped.push(other),
        }
    }
    escaped
}

/// A path as a reference that can only be a path: all but plain letters is encoded, so that it has
/// no scheme, no query and no way out of its attribute.
fn reference(path: &str) -> String {
    let mut reference = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                reference.push(char::from(byte));
            }
            other => {
                let _ = write!(reference, "%{other:02X}");
            }
        }
    }
    // Two slashes at the beginning would name another machine.
    match reference.strip_prefix('/') {
        Some(rest) => format!("/{}", rest.trim_start_matches('/')),
        None => reference,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    fn page(outcome: &Outcome) -> String {
        html(outcome, &[("Server, CPU".to_owned(), "profiles/server cpu.svg".to_owned())])
    }

    /// The tags that are open at the end, or the first that closes another one.
    fn unbalanced(page: &str) -> Vec<String> {
        const VOID: [&str; 4] = ["meta", "br", "img", "!doctype"];
        let mut open: Vec<String> = Vec::new();
        for part in page.split('<').skip(1) {
            let (tag, _) = part.split_once('>').expect("every tag ends");
            let name = tag.split([' ', '\n', '/']).find(|it| !it.is_empty()).unwrap_or_default();
            if tag.starts_with('/') {
                if open.last().map(String::as_str) != Some(name) {
                    open.push(format!("/{name}"));
                    return open;
                }
                open.pop();
            } else if !tag.ends_with('/') && !VOID.contains(&name) {
                open.push(name.to_owned());
            }
        }
        open
    }

    /// For eyes: `LOADTEST_PAGE=/tmp/page.html cargo test -p loadtest every_tag` keeps the page.
    #[test]
    fn every_tag_that_opens_is_closed() {
        let page = page(&example::outcome());
        if let Ok(path) = std::env::var("LOADTEST_PAGE") {
            std::fs::write(path, &page).unwrap();
        }
        assert_eq!(unbalanced(&page), Vec::<String>::new());
        assert_eq!(unbalanced("<p><b></p>").len(), 3);
    }

    #[test]
    fn every_threshold_and_every_latency_is_told() {
        let outcome = example::outcome();
        let page = page(&outcome);
        for judged in &outcome.thresholds {
            assert!(page.contains(&escaped(&judged.text)), "{}", judged.text);
        }
        for (name, _) in words::LATENCIES {
            for column in words::COLUMNS {
                let value = words::ms(outcome.figures[&format!("{name}.{column}")]);
                assert!(page.contains(&format!(">{value}</td>")), "{name}.{column} = {value}");
            }
        }
        let rows = words::RECONNECT.iter().chain(&words::STORM);
        let rows = rows.chain(&words::SERVER).chain(&words::GENERATOR);
        for (name, label) in rows {
            let value = words::figure(name, outcome.figures[*name]);
            assert!(page.contains(&format!("<dt>{label}</dt><dd>{value}</dd>")), "{name}");
        }
        assert!(page.contains("percentiles_ms=[3.6,4.2,6.9]"));
        assert!(page.contains("percentiles_ms=[481,570,768]"));
    }

    #[test]
    fn the_verdict_is_told_in_words() {
        let mut outcome = example::outcome();
        assert!(page(&outcome).contains("Failed</p>"));
        outcome.thresholds.clear();
        outcome.violations = 0;
        assert!(page(&outcome).contains("Passed</p>"));
    }

    #[test]
    fn nothing_that_comes_from_data_becomes_markup() {
        let mut outcome = example::outcome();
        let evil = "</title><script>alert(\"1\")</script>'";
        evil.clone_into(&mut outcome.scenario.name);
        evil.clone_into(&mut outcome.scenario.about);
        evil.clone_into(&mut outcome.began_at);
        outcome.server_version = Some(evil.to_owned());
        outcome.thresholds[0].text = evil.to_owned();
        outcome.evidence = vec![evil.to_owned()];
        outcome.warnings = vec![evil.to_owned()];
        outcome.errors = [(evil.to_owned(), 1)].into();
        outcome.server_threads = [(evil.to_owned(), 1.0)].into();
        outcome.chaos[0].what = evil.to_owned();
        outcome.scenario.server = [("KEY".to_owned(), evil.to_owned())].into();
        let page = html(&outcome, &[(evil.to_owned(), evil.to_owned())]);
        assert!(!page.contains("<script"));
        assert_eq!(unbalanced(&page), Vec::<String>::new());
    }

    #[test]
    fn the_page_asks_no_other_machine_for_anything() {
        let page = html(
            &example::outcome(),
            &[
                ("away".to_owned(), "//example.org/x".to_owned()),
                ("script".to_owned(), "javascript:x".to_owned()),
            ],
        );
        for way_out in ["http:", "https:", "=\"//", "javascript:", "url(", "@import"] {
            assert!(!page.contains(way_out), "{way_out}");
        }
    }

    #[test]
    fn a_run_of_ten_minutes_makes_a_page_of_at_most_300_kb() {
        let size = page(&example::long(6)).len();
        assert!(size < 300_000, "{size} bytes");
        let size = page(&example::long(60)).len();
        assert!(size < 300_000, "{size} bytes for a run of an hour and a half");
    }

    #[test]
    fn every_plot_has_a_name_for_those_who_cannot_see_it() {
        let page = page(&example::outcome());
        let plots = page.matches("<svg viewBox=\"0 0 1840").count();
        assert_eq!(plots, page.matches("role=\"img\" aria-label=").count());
        assert_eq!(plots, page.matches("<title>").count() - 1);
        assert!(plots >= 8, "{plots}");
    }

    #[test]
    fn a_run_that_measured_nothing_has_a_page_still() {
        let mut outcome = example::outcome();
        outcome.figures.clear();
        outcome.seconds.clear();
        outcome.curves.clear();
        outcome.server_threads.clear();
        outcome.phases.clear();
        assert_eq!(unbalanced(&page(&outcome)), Vec::<String>::new());
    }
}
