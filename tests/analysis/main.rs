//! Conclusions from made data whose right answers are known.

mod advice;
mod comparing;
mod made;
mod reports;
mod verdicts;
