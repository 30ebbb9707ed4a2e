//! `completions`: what a shell needs to complete the arguments.

use clap_complete::Shell;

use super::arguments::definition;
use super::exit::{Exit, Outcome};
use super::output::Output;

pub(super) fn run(shell: Shell, output: &Output) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut definition(), "llorch-models", &mut script);
    output.print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
