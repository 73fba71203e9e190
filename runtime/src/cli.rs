//! The command line of `segd`. Exit codes: 0 done, 1 refused, 2 wrong use.

use crate::control;
use crate::daemon::{self, Config};
use crate::kernel::linux::Linux;
use crate::status::{self, Status};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
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
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, or write the pages of all commands.
    Man {
        /// The directory to write them to.
        dir: Option<PathBuf>,
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
        Command::Completions { shell } => {
            let mut script = vec![];
            clap_complete::generate(shell, &mut Cli::command(), "segd", &mut script);
            print(&script, &mut out);
            Ok(())
        }
        Command::Man { dir: Some(dir) } => {
            write_pages(&dir).map_err(|error| format!("{}: {error}", dir.display()))
        }
        Command::Man { dir: None } => {
            let mut page = vec![];
            let rendered = Man::new(Cli::command()).render(&mut page);
            rendered.map(|()| print(&page, &mut out)).map_err(|error| error.to_string())
        }
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
    print(text.as_bytes(), out);
    Ok(())
}

fn print(text: &[u8], out: &mut dyn Write) {
    // A pager that was closed has seen enough.
    let _ = out.write_all(text).and_then(|()| out.flush());
}

/// One page for `segd` and one for each command, such as `segd-run.1`.
fn write_pages(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    for page in std::iter::once(&command).chain(command.get_subcommands()) {
        Man::new(page.clone()).generate_to(dir)?;
    }
    Ok(())
}
