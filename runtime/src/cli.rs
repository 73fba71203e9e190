//! The command line of `segd`. Exit codes: 0 done, 1 refused, 2 wrong use.

use crate::control;
use crate::daemon::{self, Config};
use crate::kernel::linux::Linux;
use crate::status::{self, Status};
use clap::{Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Loads a compiled policy and binds it to endpoints.
#[derive(Parser)]
#[command(name = "segd", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Enforce a policy until SIGTERM or SIGINT.
    Run {
        /// The object `segc build` made.
        #[arg(long)]
        policy: PathBuf,
        /// The endpoints: names, labels, addresses and interfaces.
        #[arg(long)]
        endpoints: PathBuf,
        /// Where the control socket stands.
        #[arg(long, default_value = "/run/seg")]
        run_dir: PathBuf,
    },
    /// Show what a running segd enforces, and what its rules decided.
    Status {
        /// Where its control socket stands.
        #[arg(long, default_value = "/run/seg")]
        run_dir: PathBuf,
        /// For people or for programs.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Runs `segd` with these arguments, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help asked for is no error; clap tells them apart.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let mut out = std::io::stdout();
    let done = match cli.command {
        Command::Run { policy, endpoints, run_dir } => {
            let config = Config { policy, endpoints, run_dir };
            daemon::run(&config, &mut Linux::default(), &mut out, &mut std::io::stderr())
                .map_err(|e| e.to_string())
        }
        Command::Status { run_dir, format } => show(&run_dir, format, &mut out),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(std::io::stderr(), "segd: {message}");
            ExitCode::from(1)
        }
    }
}

/// `--format json`.
#[derive(serde::Serialize)]
struct Printed<'s> {
    version: u32,
    #[serde(flatten)]
    status: &'s Status,
}

fn show(run_dir: &Path, format: Format, out: &mut dyn Write) -> Result<(), String> {
    let status = control::ask(run_dir).map_err(|error| error.to_string())?;
    let text = match format {
        Format::Text => status::text(&status),
        Format::Json => {
            let printed = Printed { version: status::VERSION, status: &status };
            let mut text =
                serde_json::to_string_pretty(&printed).map_err(|error| error.to_string())?;
            text.push('\n');
            text
        }
    };
    // A pager that was closed has seen enough.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(())
}
