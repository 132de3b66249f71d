//! Two hosts with a cable between them, as network namespaces of this machine.

use std::{
    fs::File,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Output},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

/// The hosts cannot be made here, so nothing was shown.
pub struct NotRun(pub String);

/// One host.
pub struct Host {
    name: String,
    pub address: Ipv4Addr,
}

impl Host {
    /// A command that will run on this host.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// What a thread enters in order to be on this host.
    pub fn namespace(&self) -> File {
        File::open(format!("/run/netns/{}", self.name)).unwrap()
    }
}

/// Both hosts. They end with everything that runs on them.
pub struct Hosts {
    pub hub: Host,
    pub site: Host,
}

impl Hosts {
    pub fn new() -> Result<Self, NotRun> {
        if !geteuid().is_root() {
            return Err(NotRun("network namespaces need root".to_owned()));
        }
        let own = std::process::id();
        let host =
            |name: &str, last| Host { name: format!("ew-{own}-{name}"), address: Ipv4Addr::new(192, 0, 2, last) };
        // Addresses for documentation (RFC 5737); these never leave the namespaces.
        let hosts = Self { hub: host("hub", 1), site: host("site", 2) };
        for host in [&hosts.hub, &hosts.site] {
            ip(&["netns", "add", &host.name])?;
            ip(&["-n", &host.name, "link", "set", "lo", "up"])?;
        }
        let (hub, site) = (&hosts.hub.name, &hosts.site.name);
        ip(&["-n", hub, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", site])?;
        for host in [&hosts.hub, &hosts.site] {
            ip(&["-n", &host.name, "address", "add", &format!("{}/24", host.address), "dev", "cable"])?;
            ip(&["-n", &host.name, "link", "set", "cable", "up"])?;
        }
        Ok(hosts)
    }
}

fn ip(words: &[&str]) -> Result<Output, NotRun> {
    let output = Command::new("ip").args(words).output().map_err(|error| NotRun(format!("running ip: {error}")))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(NotRun(format!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim())))
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for Host { name, .. } in [&self.hub, &self.site] {
            // Whatever still runs there, such as the server of a supervisor that was killed, runs in nothing but these.
            let Ok(pids) = ip(&["netns", "pids", name]) else { continue };
            for pid in String::from_utf8_lossy(&pids.stdout).lines() {
                if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            let _ = ip(&["netns", "del", name]);
        }
    }
}
