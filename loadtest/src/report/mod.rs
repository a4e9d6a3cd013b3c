//! What people see of a run: lines while it goes on, lines at its end, and a page.

pub(crate) mod axis;
pub(crate) mod grid;
pub(crate) mod live;
pub(crate) mod page;
pub(crate) mod plot;
pub(crate) mod summary;
pub(crate) mod words;

mod charts;

#[cfg(test)]
mod example;
