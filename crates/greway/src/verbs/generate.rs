//! `greway generate`: manual pages and shell completions of this program's own commands, for packages. Hidden: it
//! is of use to nobody at a prompt.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;

use crate::cli::Cli;

/// `greway generate`
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// What to make
    what: What,
    /// The folder it goes into, in one named `man` or `completions`
    folder: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Man,
    Completions,
}

/// Runs the verb.
pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<ExitCode> {
    let folder = args.folder.join(match args.what {
        What::Man => "man",
        What::Completions => "completions",
    });
    let made = fs::create_dir_all(&folder).and_then(|()| match args.what {
        What::Man => man(&folder),
        What::Completions => completions(&folder),
    });
    made.with_context(|| format!("cannot write to {}", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// greway(1), and a page a verb: greway-up(1), greway-tunnel-add(1).
fn man(folder: &Path) -> io::Result<()> {
    clap_mangen::generate_to(Cli::command(), folder)
}

fn completions(folder: &Path) -> io::Result<()> {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "greway", folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_that_is_shown_has_a_page_and_hidden_ones_have_none() {
        let folder = std::env::temp_dir().join(format!("greway-generate-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        man(&folder).unwrap();
        for verb in Cli::command().get_subcommands() {
            let page = folder.join(format!("greway-{}.1", verb.get_name()));
            assert_eq!(page.exists(), !verb.is_hide_set(), "{}", verb.get_name());
        }
        let page = fs::read_to_string(folder.join("greway-tunnel-add.1")).unwrap();
        assert!(page.contains(".TH greway-tunnel-add 1"), "{page}");
        completions(&folder).unwrap();
        for name in ["greway.bash", "_greway", "greway.fish"] {
            let text = fs::read_to_string(folder.join(name)).unwrap();
            assert!(text.contains("tunnel") && text.contains("dry-run"), "{name}");
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
