//! Programs that run in a folder of a test's own.

use std::{fs, path::Path};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait_for;

/// Kills every program that was given this folder, or something in it, as an argument, and waits until they are gone. What they have
/// started without such an argument goes on.
pub async fn kill_programs_of(folder: &Path) {
    wait_for(&format!("the programs of {} to be gone", folder.display()), async || {
        let found = programs_of(folder);
        for program in &found {
            // It may have ended since.
            let _ended = kill_process(*program, Signal::KILL);
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    })
    .await;
}

fn programs_of(folder: &Path) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_of_it = |argument: &[u8]| {
        let text = String::from_utf8_lossy(argument);
        text.split(['=', ':', ',']).any(|word| Path::new(word).starts_with(folder))
    };
    let pid = |process: fs::DirEntry| {
        let pid = Pid::from_raw(process.file_name().to_str()?.parse().ok()?)?;
        // It is empty for a process that has ended and was not waited for.
        let command = fs::read(process.path().join("cmdline")).ok()?;
        command.split(|byte| *byte == 0).any(is_of_it).then_some(pid)
    };
    processes.filter_map(pid).filter(|pid| *pid != rustix::process::getpid()).collect()
}
