//! Hostile files: what the worst of them costs a reader.
//!
//! `cargo bench --bench hostile` prints the median and the slowest of a few runs for each, warm, in time of the processor, which
//! other work on the machine does not lengthen much; a word after `--` chooses some.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::time::Duration;

#[path = "../tests/formats/inputs.rs"]
mod inputs;

const RUNS: usize = 7;
const BAR: Duration = Duration::from_millis(50);

/// How long this thread has run.
fn busy() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(told.split_whitespace().next().unwrap().parse().unwrap())
}

fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let mut over = 0;
    for input in inputs::INPUTS.iter().filter(|input| input.name.contains(&wanted)) {
        let file = input.file();
        let mut told = input.reader.read(&file);
        let mut times: Vec<Duration> = (0..RUNS)
            .map(|_| {
                let started = busy();
                told = input.reader.read(&file);
                busy() - started
            })
            .collect();
        times.sort();
        let (median, slowest) = (times[RUNS / 2], times[RUNS - 1]);
        let mark = if median < BAR { "" } else { "  OVER" };
        over += usize::from(median >= BAR);
        let told = told.map_or_else(|why| why.chars().take(70).collect(), |()| "read".to_owned());
        println!(
            "{:8.2} ms, at worst {:8.2} ms{mark}  {} ({:.1} MB): {told}",
            median.as_secs_f64() * 1e3,
            slowest.as_secs_f64() * 1e3,
            input.name,
            file.metadata().unwrap().len() as f64 / 1e6,
        );
    }
    println!("{over} over {BAR:?}");
}
