//! `cutover man`: the manual pages, one a command and one of the config file, for packages.
//!
//! They are made of what `--help` and config/reference.toml say, so that nothing is written twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Command};
use clap_mangen::roff::{Roff, bold, roman};

/// `cutover man DIR`
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Where they go; it is made if it is absent.
    dir: PathBuf,
}

impl Man {
    pub(crate) fn run(self, command: Command) -> anyhow::Result<ExitCode> {
        let dir = self.dir.as_path();
        let context = || format!("can't write manual pages into {}", dir.display());
        fs::create_dir_all(dir).with_context(context)?;
        // Its pages would all be alike.
        let mut command = command.disable_help_subcommand(true);
        command.build();
        write_pages(&command, dir).with_context(context)?;
        fs::write(dir.join("cutover.toml.5"), config_page()).with_context(context)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes the page of `command` and those of its own commands, but for hidden ones.
fn write_pages(command: &Command, dir: &Path) -> std::io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_pages(below, dir)?;
    }
    let man = clap_mangen::Man::new(command.clone()).date(DATE).source(SOURCE).manual(MANUAL);
    let mut page = Vec::new();
    man.render(&mut page)?;
    // What is true of every command is on the first page only.
    let is_first = command.get_name() == env!("CARGO_PKG_NAME");
    let end = if is_first { closing() } else { see(&[("cutover", "1")]) };
    page.extend_from_slice(end.as_bytes());
    fs::write(dir.join(man.get_filename()), page)
}

/// What the first page says behind its commands.
fn closing() -> String {
    let mut page = Roff::new();
    page.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXITS {
        page.control("TP", []).text([bold(code)]).text([roman(meaning)]);
    }
    page.control("SH", ["ENVIRONMENT"]);
    page.control("TP", []).text([bold("CUTOVER_LOG")]).text([roman(LOG)]);
    page.to_roff() + &see(&[("cutover.toml", "5"), ("systemd.service", "5")])
}

fn see(pages: &[(&str, &str)]) -> String {
    let mut page = Roff::new();
    page.control("SH", ["SEE ALSO"]);
    let last = pages.len() - 1;
    for (index, (name, section)) in pages.iter().enumerate() {
        let comma = if index < last { "," } else { "" };
        page.text([bold(*name), roman(format!("({section}){comma}"))]);
    }
    page.to_roff()
}

/// The page of the config file: the reference as it is.
fn config_page() -> String {
    let mut page = Roff::new();
    page.control("TH", ["cutover.toml", "5", DATE, SOURCE, MANUAL]);
    page.control("SH", ["NAME"]).text([roman("cutover.toml - the config file of cutover")]);
    page.control("SH", ["DESCRIPTION"]).control("nf", []);
    for line in include_str!("../../config/reference.toml").lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
    page.to_roff() + &see(&[("cutover", "1"), ("cutover-check", "1")])
}

/// No date: the same source makes the same pages. Not empty, as roff would then leave the argument out.
const DATE: &str = " ";
const SOURCE: &str = concat!("cutover ", env!("CARGO_PKG_VERSION"));
const MANUAL: &str = "cutover manual";

/// As `main` returns them.
const EXITS: [(&str, &str); 4] = [
    ("0", "Done."),
    ("1", "Failed."),
    ("2", "Wrong usage, or a config that can't be used."),
    ("3", "Drained, but some requests were cut off at the deadline."),
];
const LOG: &str = "A filter of the log, such as \"debug\".";
