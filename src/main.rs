//! Parses the arguments, picks the front end, sets the exit code.
#![allow(missing_docs)]

fn main() {}
