//! The last lines of a workload's log, read from its end, because a log may be long and a person reads little of it.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// Returns the end of a file, at most so many bytes; nothing when there is no such file.
pub fn end_of(path: &Path, bytes: u64) -> io::Result<String> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        opened => opened?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut end = Vec::new();
    file.take(bytes).read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

/// Returns the last lines of these texts together, the texts and the lines oldest first.
pub fn last_lines(texts: &[String], lines: usize) -> Vec<String> {
    let all: Vec<&str> = texts.iter().flat_map(|text| text.lines()).collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_reach_back_into_the_file_before() {
        let texts = ["one\ntwo\n".to_owned(), "three\n".to_owned()];
        assert_eq!(last_lines(&texts, 2), ["two", "three"]);
        assert_eq!(last_lines(&texts, 9), ["one", "two", "three"]);
        assert_eq!(last_lines(&[], 9), [""; 0]);
    }

    #[test]
    fn the_end_of_a_file_is_read_and_a_missing_one_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert_eq!(end_of(&path, 10).unwrap(), "");
        std::fs::write(&path, "0123456789ab").unwrap();
        assert_eq!(end_of(&path, 10).unwrap(), "23456789ab");
    }
}
