//! What must hold of a run's figures: `deliver.p99<100ms`, `lost==0`.

use serde::{Deserialize, Serialize};

use crate::outcome::Figures;

/// One condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Threshold {
    text: String,
}

impl Threshold {
    /// The figure's value, and whether the condition holds. A figure that the run does not have is
    /// `None`, and its condition does not hold.
    pub(crate) fn judge(&self, _figures: &Figures) -> (Option<f64>, bool) {
        todo!()
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl TryFrom<String> for Threshold {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Ok(Self { text })
    }
}

impl From<Threshold> for String {
    fn from(threshold: Threshold) -> Self {
        threshold.text
    }
}
