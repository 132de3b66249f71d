//! Repositories as stock git reads them: it shares no code with git-writer.

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use crate::evidence::{Commit, Repository};

/// Between the fields of a commit, and before each commit: neither can stand in a trailer.
const FIELD: char = '\u{1f}';
const RECORD: char = '\u{1e}';

/// Reads a bare repository: the commits of `branch` that touch `folders`, and all files of its tip. A branch that does not
/// exist has neither.
pub fn read(path: &Path, branch: &str, folders: &[&str]) -> Repository {
    let unsound = complaint(path);
    let tip = git(path, &["rev-parse", "--verify", "--quiet", branch]);
    if !tip.status.success() {
        return Repository { unsound, ..Repository::default() };
    }
    // One commit for all questions: the branch may move between them.
    let tip = String::from_utf8_lossy(&tip.stdout).trim().to_owned();
    Repository { commits: commits(path, &tip, folders), files: files(path, &tip), unsound }
}

fn commits(path: &Path, tip: &str, folders: &[&str]) -> Vec<Commit> {
    let trailer = |key| format!("%(trailers:key={key},valueonly,separator=%x2C)");
    let fields = ["Order", "Assignment", "Reason"].map(trailer).join("%x1f");
    let format = format!("--format=%x1e{fields}");
    let log = [&["log", "--reverse", &format, tip, "--"], folders].concat();
    let text = String::from_utf8_lossy(&succeeded(git(path, &log))).into_owned();
    let commit = |record: &str| {
        let mut fields = record.trim_end().split(FIELD).map(str::to_owned);
        let mut next = || fields.next().unwrap_or_default();
        Commit { order: next(), assignment: next(), reason: next() }
    };
    text.split(RECORD).skip(1).map(commit).collect()
}

fn files(path: &Path, tip: &str) -> BTreeMap<String, Vec<u8>> {
    let names = succeeded(git(path, &["ls-tree", "-r", "-z", "--name-only", tip]));
    let names: Vec<_> = String::from_utf8_lossy(&names).split_terminator('\0').map(str::to_owned).collect();
    let mut batch = Command::new("git")
        .arg("-C")
        .arg(path)
        .args(["cat-file", "--batch"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git is installed");
    let mut questions = batch.stdin.take().expect("it is piped");
    let asked: String = names.iter().map(|name| format!("{tip}:{name}\n")).collect();
    // Beside the reading: git stops to read when nobody takes its answers.
    let asking = thread::spawn(move || questions.write_all(asked.as_bytes()));
    let answers = succeeded(batch.wait_with_output().expect("waiting for git"));
    asking.join().expect("writing does not panic").expect("git reads every question");
    let mut rest = answers.as_slice();
    names.into_iter().map(|name| (name, blob(&mut rest))).collect()
}

/// Takes one answer of `git cat-file --batch` from the front: a line `<id> blob <length>`, the bytes, a line end.
fn blob(answers: &mut &[u8]) -> Vec<u8> {
    let end = answers.iter().position(|byte| *byte == b'\n').expect("an answer begins with a line");
    let line = String::from_utf8_lossy(&answers[..end]).into_owned();
    let length = line.rsplit(' ').next().and_then(|length| length.parse::<usize>().ok());
    let (begin, length) = (end + 1, length.unwrap_or_else(|| panic!("git answers {line:?}")));
    let content = answers[begin..begin + length].to_vec();
    *answers = &answers[begin + length + 1..];
    content
}

/// What `git fsck --strict` complains of; `None` when the repository is sound. Objects that nothing refers to are left by
/// a kill between writing them and moving the branch; they are no fault.
fn complaint(path: &Path) -> Option<String> {
    let output = git(path, &["fsck", "--strict", "--no-dangling"]);
    let text = || String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
    (!output.status.success()).then(text)
}

fn git(path: &Path, arguments: &[&str]) -> Output {
    Command::new("git").arg("-C").arg(path).args(arguments).output().expect("git is installed")
}

fn succeeded(output: Output) -> Vec<u8> {
    assert!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// A bare repository with two commits on `main`, each with trailers, of which one touches `assignments`.
    fn repository() -> TempDir {
        let folder = TempDir::new().unwrap();
        let path = folder.path();
        succeeded(git(path, &["init", "--quiet", "--bare", "--initial-branch=main"]));
        let mut parent = Vec::new();
        for (file, order, rest) in [
            ("sites/plant.yaml", "1", "\n"),
            ("assignments/hello.yaml", "2", "\nAssignment: hello\nReason: a reason: with colons\n"),
        ] {
            let message = format!("subject\n\nOrder: {order}{rest}");
            let blob = path.join("content");
            fs::write(&blob, format!("content of {file}\n\nwith an empty line")).unwrap();
            let id = text(git(path, &["hash-object", "-w", "content"]));
            fs::remove_file(blob).unwrap();
            let entry = format!("100644,{id},{file}");
            succeeded(git(path, &["update-index", "--add", "--cacheinfo", &entry]));
            let tree = text(git(path, &["write-tree"]));
            let identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"];
            let commit = [&identity[..], &["commit-tree", &tree, "-m", &message]].concat();
            let parents: Vec<&str> = parent.iter().flat_map(|id: &String| ["-p", id.as_str()]).collect();
            let id = text(git(path, &[commit, parents].concat()));
            succeeded(git(path, &["update-ref", "refs/heads/main", &id]));
            parent = vec![id];
        }
        folder
    }

    fn text(output: Output) -> String {
        String::from_utf8_lossy(&succeeded(output)).trim().to_owned()
    }

    #[test]
    fn commits_and_files_are_read_as_they_stand() {
        let folder = repository();
        let read = read(folder.path(), "main", &["assignments"]);
        let commit = |order: &str, assignment: &str, reason: &str| Commit {
            order: order.to_owned(),
            assignment: assignment.to_owned(),
            reason: reason.to_owned(),
        };
        assert_eq!(read.commits, [commit("2", "hello", "a reason: with colons")]);
        assert_eq!(read.unsound, None);
        let files: Vec<_> = read.files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
        let (hello, plant) = ("content of assignments/hello.yaml", "content of sites/plant.yaml");
        let [hello, plant] = [hello, plant].map(|text| format!("{text}\n\nwith an empty line").into_bytes());
        assert_eq!(files, [("assignments/hello.yaml", &hello[..]), ("sites/plant.yaml", &plant[..])]);
        assert_eq!(super::read(folder.path(), "main", &[]).commits.len(), 2);
        assert!(super::read(folder.path(), "absent", &[]).commits.is_empty());
    }

    #[test]
    fn a_broken_or_missing_object_is_complained_of() {
        for destroy in [(|path| fs::write(path, "broken").unwrap()) as fn(&Path), |path| fs::remove_file(path).unwrap()]
        {
            let folder = repository();
            let id = text(git(folder.path(), &["rev-parse", "main:assignments/hello.yaml"]));
            let object = folder.path().join("objects").join(&id[..2]).join(&id[2..]);
            // Git makes its objects read-only.
            fs::set_permissions(&object, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
            destroy(&object);
            let complaint = complaint(folder.path()).expect("the repository is unsound");
            assert!(complaint.contains(&id), "{complaint}");
        }
    }
}
