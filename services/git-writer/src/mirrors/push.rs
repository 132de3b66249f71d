//! One `git push`, and what it says of each branch.

use std::{ffi::OsString, io, path::Path, process::Stdio, time::Duration};

use git_state::{CommitId, Repository, layout};
use margo::{RepositoryName, TenantName};

use super::Mirror;
use crate::git::{self, Limits};

/// What one push may take. The first one of a large repository has much to send.
const LIMITS: Limits = Limits { patience: Duration::from_secs(1800), memory: 4 << 30, file: None, niceness: 0 };

/// What git is told. A remote that says nothing for half a minute is away, and one that sends the push elsewhere would send the
/// token there, too.
const SETTINGS: [&str; 5] = [
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=30",
    "http.followRedirects=false",
    "pack.threads=1",
    "safe.directory=*",
];

/// Gives the user name and the token without showing them among the arguments of a process.
const HELPER: &str =
    "credential.helper=!f() { echo \"username=$EDGEWRIGHT_USER\"; echo \"password=$EDGEWRIGHT_TOKEN\"; }; f";

/// What became of one branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The remote has it, or had it.
    There,
    /// The remote has a commit that this repository does not have, or one that comes after none of its own.
    MovedByOthers,
    /// The remote did not take it, with its words.
    Refused(String),
}

/// Why nothing is known of the branches.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("git push: {0}")]
    Git(String),
    #[error("git push")]
    NotRun(#[from] git::Failed),
    #[error("the repository, or the file with the token, cannot be read")]
    Io(#[from] io::Error),
    #[error("the repository cannot be read")]
    Read(#[from] git_state::GitError),
}

/// Pushes these repositories, which have one remote. Returns what became of each, in their order.
pub async fn push(
    folder: &Path,
    tenant: &TenantName,
    mirror: &Mirror,
    repositories: &[RepositoryName],
) -> Result<Vec<Pushed>, Failed> {
    let tips = {
        let (folder, tenant, names) = (folder.to_owned(), tenant.clone(), repositories.to_vec());
        let read = move || names.iter().map(|name| tip(&folder, &tenant, name)).collect::<Result<Vec<_>, _>>();
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??
    };
    // A repository without a commit is nowhere yet.
    let open: Vec<_> = repositories.iter().zip(&tips).filter_map(|(name, tip)| Some((name, (*tip)?))).collect();
    let Some((first, _)) = open.first() else { return Ok(vec![Pushed::There; repositories.len()]) };
    let refspecs: Vec<_> =
        open.iter().map(|(name, tip)| format!("{tip}:refs/heads/{}", mirror.place(name).1)).collect();
    let mut command = git::command(&SETTINGS, &["HOME", "SSH_AUTH_SOCK"], LIMITS);
    // One repository pushes, and finds the objects of the others where they lie.
    let others = open.iter().skip(1).map(|(name, _)| layout::repository(folder, tenant, name).join("objects"));
    let others: Vec<OsString> = others.map(Into::into).collect();
    if !others.is_empty() {
        command.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", others.join(&OsString::from(":")));
    }
    if let Some(file) = &mirror.root_certificates {
        command.env("GIT_SSL_CAINFO", file);
    }
    if let Some(file) = mirror.token_file.clone() {
        let text = disk::blocking(move || std::fs::read_to_string(file)).await?;
        let token = text.lines().next().unwrap_or_default().trim().to_owned();
        command.env("EDGEWRIGHT_USER", &mirror.user).env("EDGEWRIGHT_TOKEN", token).args(["-c", HELPER]);
    }
    command.arg("-C").arg(layout::repository(folder, tenant, first));
    command.args(["push", "--porcelain", "--no-progress", "--no-verify", &mirror.place(first).0]).args(&refspecs);
    command.stdout(Stdio::piped());
    let ended = git::run(command, LIMITS.patience, b"").await?;
    let (told, words) = (String::from_utf8_lossy(&ended.told), &ended.words);
    let mut verdicts = refspecs.iter().map(|refspec| verdict(refspec, &told));
    if !ended.status.success() && verdicts.clone().all(|verdict| verdict.is_none()) {
        return Err(Failed::Git(last_words(words)));
    }
    let verdicts = tips.iter().map(|tip| match tip {
        None => Pushed::There,
        Some(_) => verdicts.next().flatten().unwrap_or_else(|| Pushed::Refused(last_words(words))),
    });
    Ok(verdicts.collect())
}

fn tip(folder: &Path, tenant: &TenantName, name: &RepositoryName) -> Result<Option<CommitId>, git_state::GitError> {
    match Repository::open(folder, tenant, name)? {
        Some(repository) => repository.tip(),
        None => Ok(None),
    }
}

/// What `git push --porcelain` says of a refspec: a line `<flag>\t<from>:<to>\t<summary> (<reason>)`.
fn verdict(refspec: &str, told: &str) -> Option<Pushed> {
    let to = refspec.split_once(':')?.1;
    let line = told
        .lines()
        .find(|line| line.split('\t').nth(1).and_then(|it| it.split_once(':')).is_some_and(|it| it.1 == to))?;
    let (flag, summary) = (line.split('\t').next()?, line.split('\t').nth(2).unwrap_or_default());
    Some(match flag {
        " " | "*" | "=" => Pushed::There,
        _ if ["fetch first", "non-fast-forward", "needs force"].iter().any(|why| summary.contains(why)) => {
            Pushed::MovedByOthers
        }
        _ => Pushed::Refused(summary.chars().take(500).collect()),
    })
}

/// The last lines that git wrote, without those that hint at commands for people.
fn last_words(words: &str) -> String {
    let lines = words.lines().filter(|line| !line.trim_start().starts_with("hint:"));
    lines.collect::<Vec<_>>().join("; ").trim().chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_of_a_branch_is_understood() {
        let told = "To https://git.example/ew\n*\ta1:refs/heads/fleet\t[new branch]\n \ta2:refs/heads/client/plant\tb..c\n\
                    =\ta3:refs/heads/client/depot\t[up to date]\n!\ta4:refs/heads/client/shop\t[rejected] (fetch first)\n\
                    !\ta5:refs/heads/client/yard\t[remote rejected] (pre-receive hook declined)\nDone\n";
        let of = |to: &str| verdict(&format!("x:refs/heads/{to}"), told);
        for there in ["fleet", "client/plant", "client/depot"] {
            assert_eq!(of(there), Some(Pushed::There), "{there}");
        }
        assert_eq!(of("client/shop"), Some(Pushed::MovedByOthers));
        let refused = "[remote rejected] (pre-receive hook declined)".to_owned();
        assert_eq!(of("client/yard"), Some(Pushed::Refused(refused)));
        assert_eq!(of("client"), None);
    }
}
