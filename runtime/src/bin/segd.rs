//! segd: see `seg_runtime::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    seg_runtime::cli::main(std::env::args_os())
}
