//! How objects are printed: tables for people, the other forms for programs.

mod columns;
mod format;
mod sort;
mod table;

pub use self::{
    columns::{TableOptions, Tables},
    format::{Format, OutputArgs, Printer, json_text},
    sort::sort_by,
    table::Table,
};
