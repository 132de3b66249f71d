//! A PostgreSQL server per test process, and tests that run on each kind of database.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use store::{Location, PostgresUrl};
use uuid::Uuid;

use crate::loopback;

/// What a start takes on a loaded machine; usually it is a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who runs the server when the tests run as root, which PostgreSQL refuses to be. Debian's package makes this user.
const USER: &str = "postgres";

/// A running server, shared by all tests of a process: each test has a schema of its own.
///
/// The server orders words as people do and not by bytes, as many real ones do. It ends with the process, however the
/// process ends, and takes its folder with it.
pub struct Postgres {
    url: String,
}

impl Postgres {
    /// The server of this process. The first test that asks starts it.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<Postgres> = OnceLock::new();
        SERVER.get_or_init(Self::start)
    }

    /// The URL of its database, with the password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A schema that no other test uses. It does not exist yet.
    pub fn location(&self) -> Location {
        let url: PostgresUrl = self.url.parse().expect("the URL is made here");
        Location::Schema { url, schema: format!("test_{}", Uuid::new_v4().simple()) }
    }

    fn start() -> Self {
        let programs = programs();
        let folder = tempfile::Builder::new().prefix("postgres-").tempdir().expect("a folder for a server").keep();
        let (address, password) = (loopback(), Uuid::new_v4().simple().to_string());
        fs::write(folder.join("password"), &password).expect("writing the password");
        let hba = "host all all 127.0.0.0/8 scram-sha-256\n";
        fs::write(folder.join("pg_hba.conf"), hba).expect("writing who may connect");
        fs::write(folder.join("run"), script(&programs, &folder, &address.to_string())).expect("writing the script");
        let mut command = if rustix::process::geteuid().is_root() {
            let owned = Command::new("chown").arg("-R").arg(USER).arg(&folder).status();
            assert!(owned.is_ok_and(|status| status.success()), "the user {USER} is missing (make setup)");
            let mut command = Command::new("setpriv");
            command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        // The script waits for the end of its input, which is the end of this process.
        let mut child = command
            .arg(folder.join("run"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let begin = Instant::now();
        while !is_ready(&folder) {
            let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
            if let Ok(Some(status)) = child.try_wait() {
                panic!("PostgreSQL ended with {status}: {}", log());
            }
            assert!(begin.elapsed() < PATIENCE, "PostgreSQL did not start: {}", log());
            thread::sleep(Duration::from_millis(20));
        }
        // Its input stays open: the value is never dropped.
        std::mem::forget(child);
        Self { url: format!("postgres://{USER}:{password}@{address}:5432/postgres") }
    }
}

/// Makes the server's data and runs the server until the input ends. Nothing is synced: a test's data dies with it.
fn script(programs: &Path, folder: &Path, address: &str) -> String {
    let (programs, folder) = (programs.display(), folder.display());
    format!(
        "cd {folder} && exec 2>log && trap 'rm -rf {folder}' EXIT
{programs}/initdb --pgdata data --username {USER} --pwfile password --auth scram-sha-256 --encoding UTF8 --no-sync \
--locale-provider icu --icu-locale en-US --locale C >log || exit 1
mv pg_hba.conf data/pg_hba.conf
{programs}/postgres -D data -c listen_addresses={address} -c unix_socket_directories= -c fsync=off \
-c full_page_writes=off -c shared_buffers=32MB -c max_connections=300 >>log &
server=$!
read -r end
kill -QUIT $server
wait $server
"
    )
}

/// Whether the server says that it takes connections.
fn is_ready(folder: &Path) -> bool {
    fs::read_to_string(folder.join("data/postmaster.pid"))
        .is_ok_and(|text| text.lines().nth(7).is_some_and(|line| line.trim() == "ready"))
}

/// The folder of PostgreSQL's programs: `$EDGEWRIGHT_POSTGRES_BIN`, else where Debian has them, else that of `initdb` in
/// the search path.
fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("EDGEWRIGHT_POSTGRES_BIN") {
        return PathBuf::from(folder);
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let debian = versions.map(|version| version.path().join("bin"));
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = debian.chain(std::env::split_paths(&search)).find(|folder| folder.join("initdb").exists());
    found.expect("PostgreSQL is missing, and tests of what is stored run on it, too: `make setup` installs it")
}

/// Runs a test on each kind of database, first on SQLite and then on PostgreSQL. The location is empty: the test opens it,
/// as often as it wants to.
pub async fn on_each_database(test: impl AsyncFn(Location)) {
    let folder = tempfile::tempdir().expect("a folder for a database");
    let locations = [Location::File(folder.path().join("database/test.sqlite")), Postgres::shared().location()];
    for location in locations {
        // Shown when the test fails.
        println!("on {location}");
        test(location).await;
    }
}
