//! `segc`: the Seg compiler for people and CI.

use clap::{Parser, Subcommand, ValueEnum};
use segc::commands::{self, Output};
use std::path::PathBuf;
use std::process::ExitCode;

/// Checks, tests, explains and compiles Seg policies.
///
/// PATH is a package directory (with seg.toml), one .seg file, or - for standard input; by default the current directory.
/// Exit codes: 0 clean, 1 findings, 2 wrong use, 4 internal error.
#[derive(Debug, Parser)]
#[command(name = "segc", version)]
struct Arguments {
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new package.
    New {
        /// The directory to make.
        dir: PathBuf,
    },
    /// Parse and check a policy.
    Check {
        #[arg(default_value = ".")]
        path: PathBuf,
    },
    /// Prove the claims of every `test` block, and run them on the compiled code.
    Test {
        #[arg(default_value = ".")]
        path: PathBuf,
    },
    /// Compile a policy to a BPF object.
    Build {
        #[arg(default_value = ".")]
        path: PathBuf,
        /// The object to write.
        #[arg(short, long, default_value = "policy.bpf.o")]
        output: PathBuf,
    },
    /// Say what becomes of one flow and which rule decides it.
    Explain {
        /// A workload, an address, `self`, or labels such as `app:shop&role:web`.
        source: String,
        /// The same.
        destination: String,
        /// A service such as `tcp/443`, `icmp/echo-request` or `https`.
        service: String,
        #[arg(default_value = ".")]
        path: PathBuf,
    },
    /// Print an intermediate stage.
    Dump {
        /// Which stage.
        #[arg(value_enum)]
        stage: commands::Stage,
        #[arg(default_value = ".")]
        path: PathBuf,
    },
    /// Say what a compiled object holds.
    Inspect {
        /// The object.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = if arguments.format == Format::Json { Output::Json } else { Output::Text };
    let run = || match &arguments.command {
        Command::New { dir } => commands::new(dir, output),
        Command::Check { path } => commands::check(path, output),
        Command::Test { path } => commands::test(path, output),
        Command::Build { path, output: file } => commands::build(path, file, output),
        Command::Explain { source, destination, service, path } => {
            commands::explain(source, destination, service, path, output)
        }
        Command::Dump { stage, path } => commands::dump(*stage, path, output),
        Command::Inspect { file } => commands::inspect(file, output),
    };
    // The panic message is printed by the default hook; a bug of ours must not look like a finding.
    let outcome = std::panic::catch_unwind(run).unwrap_or(commands::Outcome::Internal);
    ExitCode::from(outcome as u8)
}
