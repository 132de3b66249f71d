//! Stock git as a child: it serves, repacks and pushes.

use std::process::Stdio;

use tokio::process::Command;

/// A command of git that knows of the machine only where its programs are, and what is named in `inherited`: neither the machine's
/// nor anybody's own configuration counts. It is ended when nobody waits for it any more.
pub fn command(settings: &[&str], inherited: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.env_clear().env("LC_ALL", "C").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.env("GIT_TERMINAL_PROMPT", "0");
    for name in ["PATH"].iter().chain(inherited) {
        #[expect(clippy::disallowed_methods, reason = "it is handed on to a child, and means nothing here")]
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.args(settings.iter().flat_map(|setting| ["-c", setting]));
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}
