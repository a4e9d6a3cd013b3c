//! What an import answers, and what it must answer. Pure.

use serde::{Deserialize, Serialize};

/// As many bad lines as an answer names.
pub(crate) const NAMED_MAX: usize = 100;

/// The body of an answer.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Answered {
    pub(crate) result: Imported,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Imported {
    status: String,
    stats: Stats,
    #[serde(default)]
    invalid: Vec<Invalid>,
}

#[derive(Clone, Debug, Deserialize)]
struct Stats {
    bytes: u64,
    records: Records,
    added: u64,
    known: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Records {
    valid: u64,
    invalid: u64,
    total: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Invalid {
    line: u64,
}

/// Of one answer, or of several together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub(crate) struct Counts {
    pub(crate) bytes: u64,
    pub(crate) valid: u64,
    pub(crate) invalid: u64,
    pub(crate) added: u64,
    pub(crate) known: u64,
}

impl Imported {
    /// Its counts.
    ///
    /// # Errors
    /// When it says of itself that it did not go well, or contradicts itself.
    pub(crate) fn counts(&self) -> Result<Counts, String> {
        let Stats { bytes, records: Records { valid, invalid, total }, added, known } = self.stats;
        if self.status != "ok" {
            return Err(format!("the status of the answer is `{}`", self.status));
        }
        if valid + invalid != total || added + known != valid {
            return Err(format!("the counts do not add up: {:?}", self.stats));
        }
        let named = self.invalid.len() as u64;
        if named != invalid.min(NAMED_MAX as u64) {
            return Err(format!("{named} of {invalid} invalid lines are named"));
        }
        Ok(Counts { bytes, valid, invalid, added, known })
    }

    /// The numbers of the bad lines that it names, from 1.
    pub(crate) fn bad_lines(&self) -> Vec<u64> {
        self.invalid.iter().map(|it| it.line).collect()
    }
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.valid += other.valid;
        self.invalid += other.invalid;
        self.added += other.added;
        self.known += other.known;
    }

    /// What is wrong with them, if these were expected.
    pub(crate) fn complaint(self, expected: Self) -> Option<String> {
        (self != expected).then(|| format!("{self:?} is not {expected:?}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(change: impl FnOnce(&mut serde_json::Value)) -> Imported {
        let mut answer = json!({"result": {
            "status": "ok",
            "stats": {
                "bytes": 500,
                "records": {"valid": 3, "invalid": 2, "total": 5},
                "added": 2,
                "known": 1,
            },
            "invalid": [{"line": 2, "reason": "no body"}, {"line": 4, "reason": "not JSON"}],
        }});
        change(&mut answer["result"]);
        serde_json::from_value::<Answered>(answer).unwrap().result
    }

    #[test]
    fn an_answer_is_counted() {
        let counts = Counts { bytes: 500, valid: 3, invalid: 2, added: 2, known: 1 };
        let imported = said(|_| ());
        assert_eq!((imported.counts(), imported.bad_lines()), (Ok(counts), vec![2, 4]));
        assert_eq!(counts.complaint(counts), None);
        let mut twice = counts;
        twice.add(counts);
        assert_eq!((twice.bytes, twice.added, twice.known), (1_000, 4, 2));
        let told = twice.complaint(counts).unwrap();
        assert!(told.contains("bytes: 1000") && told.contains("is not"), "{told}");
    }

    #[test]
    fn an_answer_that_contradicts_itself_is_not_believed() {
        let wrong = |change: fn(&mut serde_json::Value)| said(change).counts().unwrap_err();
        assert!(wrong(|it| it["status"] = json!("partial")).contains("`partial`"));
        assert!(wrong(|it| it["stats"]["added"] = json!(3)).contains("do not add up"));
        assert!(wrong(|it| it["stats"]["records"]["total"] = json!(6)).contains("do not add up"));
        assert!(wrong(|it| it["invalid"] = json!([])).contains("0 of 2 invalid lines"));
    }
}
