//! What people see of a run: lines while it goes on, lines at its end, and a page.

pub(crate) mod axis;
pub(crate) mod live;
pub(crate) mod page;
pub(crate) mod summary;

mod charts;
mod plot;
mod words;

#[cfg(test)]
mod example;
