//! `segc completions` and `segc man`: what shells and manual readers are told, from the arguments themselves.

use super::{Outcome, Output, misuse};
use crate::package::LoadError;
use crate::report::{self, say};
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use serde::Serialize;
use std::io;
use std::path::Path;

/// `segc completions`.
pub fn completions(shell: Shell, mut command: Command, output: Output) -> Outcome {
    let mut script = vec![];
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    show(&script, output)
}

/// `segc man`: the page of `segc` on standard output, or the pages of all commands into a directory.
pub fn man(directory: Option<&Path>, command: Command, output: Output) -> Outcome {
    match directory {
        None => {
            let mut page = vec![];
            // Writing to memory cannot fail.
            Man::new(command).render(&mut page).expect("a page renders");
            show(&page, output)
        }
        Some(directory) => match write(directory, command) {
            Ok(made) => {
                match output {
                    Output::Json => report::print(Made { made }),
                    Output::Text => made.iter().for_each(|path| say!("made {path}")),
                }
                Outcome::Clean
            }
            Err(error) => misuse(&LoadError(format!("{}: {error}", directory.display())), output),
        },
    }
}

/// One page for the command and one for each below it, such as `segc-check.1`.
fn write(directory: &Path, command: Command) -> io::Result<Vec<String>> {
    std::fs::create_dir_all(directory)?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let pages = std::iter::once(&command).chain(command.get_subcommands());
    pages
        .map(|page| Ok(Man::new(page.clone()).generate_to(directory)?.display().to_string()))
        .collect()
}

#[derive(Serialize)]
struct Made {
    made: Vec<String>,
}

fn show(text: &[u8], output: Output) -> Outcome {
    let text = String::from_utf8_lossy(text).into_owned();
    match output {
        Output::Json => report::print(Printed { text }),
        Output::Text => say!("{}", text.trim_end()),
    }
    Outcome::Clean
}

#[derive(Serialize)]
struct Printed {
    text: String,
}
