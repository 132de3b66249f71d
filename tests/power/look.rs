//! What is looked at after a power cut.

use std::{collections::BTreeMap, path::Path, process::Command};

use git_state::{Draft, GitError, Message, Writer, layout};
use jiff::Timestamp;
use margo::{RepositoryName, TenantName};

use crate::writer;

/// The last commit that was promised of each repository.
pub type Promised = BTreeMap<String, String>;

/// Starts the writer on what a power cut has left, and looks whether all is there that was promised, whether stock git finds
/// nothing wrong, and whether the writer goes on. Says what is not so.
pub fn look(repositories: &Path, key: &Path, promised: &Promised) -> Result<(), String> {
    let mut writer = writer::open(repositories, key).map_err(|error| format!("no start: {error:?}"))?;
    for name in writer::repositories() {
        let wrong = |wrong: String| format!("{name}: {wrong}");
        let path = layout::repository(repositories, &TenantName::default(), &name);
        let found = writer.open(&name).map_err(|error| wrong(format!("{error:?}")))?;
        let tip = found.map_or(Ok(None), |found| found.tip()).map_err(|error| wrong(format!("{error:?}")))?;
        match (promised.get(&name.to_string()), tip) {
            (Some(expected), Some(tip)) => {
                git(&path, &["merge-base", "--is-ancestor", expected, &tip.to_string()]).map_err(wrong)?;
                check(&path).map_err(wrong)?;
            }
            (Some(expected), None) => return Err(wrong(format!("{expected} is gone"))),
            (None, Some(_)) => check(&path).map_err(wrong)?,
            (None, None) => {}
        }
        go_on(&mut writer, &name).map_err(|error| wrong(format!("it does not go on: {error:?}")))?;
        check(&path).map_err(wrong)?;
    }
    writer.rest().map_err(|error| format!("no rest: {error:?}"))
}

/// Has stock git look at everything in a repository.
fn check(repository: &Path) -> Result<(), String> {
    let said = git(repository, &["fsck", "--strict", "--full", "--no-progress", "--no-dangling"])?;
    if said.is_empty() { Ok(()) } else { Err(said) }
}

/// Commits once more.
fn go_on(writer: &mut Writer, name: &RepositoryName) -> Result<(), GitError> {
    writer.open_or_create(name)?;
    let mut series = writer.series(name, writer.tip(name)?);
    let message = Message::new("go on");
    let draft = Draft { author: "ada", message: &message, changes: &[], at: Timestamp::UNIX_EPOCH };
    writer.write(&mut series, draft)?;
    writer.advance(vec![series]).remove(0)
}

fn git(repository: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("git").arg("-C").arg(repository).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() { Ok(text) } else { Err(format!("git {arguments:?}: {}: {text}", output.status)) }
}
