//! Reads JSON values and says which are not as a schema wants them: `seg-judge sarif`, `seg-judge FILE`.
//!
//! One line for each value: empty if it is right. The official schema is that in the sources of the crate `serde-sarif`;
//! a SARIF log must also fit the types which that crate made from it.

use jsonschema::Validator;
use serde_json::{Deserializer, Value};
use std::error::Error;
use std::io::{BufReader, stdin};
use std::path::PathBuf;
use std::process::Command;

/// A bracket too many in the official pattern of `language`, which only lenient dialects of regular expressions take.
const STRAY_BRACKET: &str = "{2}]?$";

fn main() -> Result<(), Box<dyn Error>> {
    let schema = std::env::args().nth(1).ok_or("usage: seg-judge sarif|FILE")?;
    let path = if schema == "sarif" { official()? } else { PathBuf::from(&schema) };
    let text = std::fs::read_to_string(path)?.replace(STRAY_BRACKET, "{2}$");
    let value: Value = serde_json::from_str(&text)?;
    jsonschema::meta::validate(&value).map_err(|e| e.to_string())?;
    let options = jsonschema::options().should_validate_formats(true);
    let validator = options.build(&value).map_err(|e| e.to_string())?;
    for value in Deserializer::from_reader(BufReader::new(stdin())).into_iter() {
        let value: Value = value?;
        println!("{}", wrong(&validator, schema == "sarif", value).replace('\n', " "));
    }
    Ok(())
}

/// What is wrong with a value, in a line; empty if nothing is.
fn wrong(validator: &Validator, is_sarif: bool, value: Value) -> String {
    let errors: Vec<String> = validator
        .iter_errors(&value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    if !errors.is_empty() || !is_sarif {
        return errors.join("; ");
    }
    serde_json::from_value::<serde_sarif::sarif::Sarif>(value)
        .map_or_else(|error| error.to_string(), |_| String::new())
}

/// Where the official schema lies.
fn official() -> Result<PathBuf, Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let host = Command::new("rustc").arg("-vV").output()?.stdout;
    let host = String::from_utf8(host)?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("no host")?;
    // Packages of other machines are not here.
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", host])
        .args(["--manifest-path", manifest])
        .output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let packages = metadata["packages"].as_array().ok_or("no packages")?;
    let package = packages.iter().find(|p| p["name"] == "serde-sarif").ok_or("no serde-sarif")?;
    let manifest = PathBuf::from(package["manifest_path"].as_str().ok_or("no path")?);
    Ok(manifest.with_file_name("src").join("schema.json"))
}
