//! The `cutover` program: parses the command line, runs one command, turns its result into an exit
//! code.

use std::process::ExitCode;

use clap::Parser;

/// Fewer instructions and system calls a request than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cutover::cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            // A config that can't be used is wrong usage; all else failed.
            let is_usage = error.downcast_ref::<cutover::config::ConfigError>().is_some();
            ExitCode::from(if is_usage { 2 } else { 1 })
        }
    }
}
