//! Parses the arguments, picks the front end, sets the exit code.

use std::process::ExitCode;

use rbee_hive::cli;

fn main() -> ExitCode {
    let arguments = match cli::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(exit) => return ExitCode::from(exit.code()),
    };
    let exit = match arguments.command {
        Some(command) => cli::run(command, &arguments.global),
        None => cli::open_screen(&arguments.global),
    };
    ExitCode::from(exit.code())
}
