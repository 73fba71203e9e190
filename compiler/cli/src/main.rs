//! `segc`: the Seg compiler for people and CI.

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use segc::commands::{self, BuildConfig, Format, Input, Outcome, Output, ReadBack, ShapeName};
use segc::package::LoadError;
use std::path::PathBuf;
use std::process::ExitCode;

/// Checks, tests, explains and compiles Seg policies.
///
/// PATH is a package directory (with seg.toml), one .seg file (inside a package: that package), or - for standard input; by default the current directory.
/// Exit codes: 0 clean, 1 findings, 2 wrong use, 4 internal error.
#[derive(Debug, Parser)]
#[command(name = "segc", version)]
struct Arguments {
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The day whose policy is wanted: what expired before is left out.
    #[arg(long, global = true, value_name = "DATE", value_parser = date)]
    as_of: Option<String>,
    #[command(subcommand)]
    command: Command,
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
        /// Apply the edits that are sure, and say what is left; of `-`, print the text.
        #[arg(long)]
        fix: bool,
    },
    /// Lay out sources: one layout, comments kept.
    Fmt {
        /// Packages, .seg files, or - for standard input to standard output.
        #[arg(default_value = ".")]
        paths: Vec<PathBuf>,
        /// Write nothing; show what would change, and exit with 1 if something would.
        #[arg(long)]
        check: bool,
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
        /// Decide by comparisons or by tables, whatever costs less.
        #[arg(long)]
        shape: Option<ShapeName>,
        /// Say what the shapes that were made cost, and which was chosen.
        #[arg(long)]
        explain_shape: bool,
        /// Write the object without reading it back; for benchmarks only.
        #[arg(long)]
        no_check: bool,
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
    /// Explain a diagnostic code, with a bad and a good example.
    Why {
        /// A code such as `E0207`; without it all codes are listed.
        code: Option<String>,
    },
    /// Serve an editor: the Language Server Protocol on standard input and output.
    Lsp,
    /// Show the documentation of modules, and what they define.
    Doc {
        /// A module such as `std.services`, a name in it such as `std.services.dns`, or a name alone; all modules by default.
        name: Option<String>,
        /// The package whose modules are shown beside those of `std`.
        path: Option<PathBuf>,
    },
    /// Print the completions of a shell: `segc completions bash > /etc/bash_completion.d/segc`.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, or write the pages of all commands: `segc man /usr/local/share/man/man1`.
    Man {
        /// The directory to write them to.
        dir: Option<PathBuf>,
    },
}

impl Command {
    /// The formats it prints.
    fn formats(&self) -> &'static [Format] {
        if matches!(self, Self::Check { .. } | Self::Test { .. }) {
            &[Format::Text, Format::Json, Format::Sarif, Format::Github, Format::Junit]
        } else if matches!(self, Self::Build { .. }) {
            &[Format::Text, Format::Json, Format::Sarif, Format::Github]
        } else if matches!(self, Self::Lsp) {
            // It speaks its protocol.
            &[Format::Text]
        } else {
            &[Format::Text, Format::Json]
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::try_parse().unwrap_or_else(|error| wrong_arguments(&error));
    // The panic message is printed by the default hook; a bug of ours must not look like a finding.
    let outcome = std::panic::catch_unwind(|| run(&arguments)).unwrap_or(Outcome::Internal);
    ExitCode::from(outcome as u8)
}

fn run(arguments: &Arguments) -> Outcome {
    let Arguments { format, as_of, command } = arguments;
    let format = *format;
    let input = |path| Input { path, as_of: as_of.as_deref() };
    let formats = command.formats();
    if !formats.contains(&format) {
        let names = formats.iter().map(|format| format!("`{}`", name(*format)));
        let message = format!(
            "this command has no format `{}`, but {}",
            name(format),
            names.collect::<Vec<_>>().join(", ")
        );
        return commands::misuse(&LoadError(message), format);
    }
    let output = if format == Format::Json { Output::Json } else { Output::Text };
    match command {
        Command::New { dir } => commands::new(dir, output),
        Command::Check { path, fix: false } => commands::check(input(path), format),
        Command::Check { path, fix: true } => commands::check_and_fix(input(path), format),
        Command::Fmt { paths, check } => {
            let mode = if *check { commands::Mode::Check } else { commands::Mode::Write };
            commands::fmt(paths, mode, output)
        }
        Command::Test { path } => commands::test(input(path), format),
        Command::Build { path, output: file, shape, explain_shape, no_check } => {
            let read_back = if *no_check { ReadBack::Skip } else { ReadBack::Check };
            let config = BuildConfig { shape: *shape, explain_shape: *explain_shape, read_back };
            commands::build(input(path), file, config, format)
        }
        Command::Explain { source, destination, service, path } => {
            commands::explain(source, destination, service, input(path), output)
        }
        Command::Dump { stage, path } => commands::dump(*stage, input(path), output),
        Command::Inspect { file } => commands::inspect(file, output),
        Command::Why { code } => commands::why(code.as_deref(), output),
        Command::Lsp => segc::lsp::serve(),
        Command::Doc { name, path } => commands::doc(name.as_deref(), path.as_deref(), output),
        Command::Completions { shell } => {
            commands::completions(*shell, Arguments::command(), output)
        }
        Command::Man { dir } => commands::man(dir.as_deref(), Arguments::command(), output),
    }
}

fn date(text: &str) -> Result<String, String> {
    let is_date = seg_lang::lex::is_date(text);
    is_date.then(|| text.to_owned()).ok_or_else(|| "write a date such as 2026-12-31".to_owned())
}

fn name(format: Format) -> String {
    format.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Ends with what `clap` has to say: help and versions, or wrong arguments, which are told in JSON if that was asked for.
fn wrong_arguments(error: &clap::Error) -> ! {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let asked = words.windows(2).any(|pair| pair == ["--format", "json"])
        || words.iter().any(|word| word == "--format=json");
    if !(asked && error.use_stderr()) {
        error.exit();
    }
    let text = error.render().to_string();
    let message = text.trim().trim_start_matches("error: ").to_owned();
    let outcome = commands::misuse(&LoadError(message), Format::Json);
    std::process::exit(outcome as i32)
}
