//! Where a service's tables are: in a SQLite file or in a schema of a PostgreSQL database, and never with a password in
//! what is shown of it.

use std::{fmt, path::PathBuf, str::FromStr};

use sqlx::postgres::PgConnectOptions;

/// Where a service's tables are. No other service uses the same place.
#[derive(Clone, Debug)]
pub enum Location {
    /// A SQLite file. The file and its folder are made when they are missing.
    File(PathBuf),
    /// A schema of a PostgreSQL database. The schema is made when it is missing, the database is not.
    Schema {
        /// The server and the database on it, and as whom to connect.
        url: PostgresUrl,
        /// The name of the schema: lower-case letters, digits and `_`.
        schema: String,
    },
}

impl Location {
    /// The schema of a service: the service's name, with `_` for `-` so that nobody has to quote it.
    pub fn schema_of(url: PostgresUrl, service: &str) -> Self {
        Self::Schema { url, schema: service.replace('-', "_") }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Schema { url, schema } => write!(f, "schema {schema} of {url}"),
        }
    }
}

/// How to connect to a PostgreSQL database: `postgres://user:password@host:port/database?sslmode=verify-full`.
///
/// Neither `Display` nor `Debug` shows the password. A password that the URL does not name comes from `~/.pgpass`.
#[derive(Clone)]
pub struct PostgresUrl(pub(crate) Box<PgConnectOptions>);

/// A text that is no PostgreSQL URL. The text is not repeated, because it may hold a password.
#[derive(Debug, thiserror::Error)]
#[error("this is no URL of a PostgreSQL database: postgres://user@host:port/database")]
pub struct InvalidLocation;

impl FromStr for PostgresUrl {
    type Err = InvalidLocation;

    fn from_str(raw: &str) -> Result<Self, InvalidLocation> {
        if !raw.starts_with("postgres://") && !raw.starts_with("postgresql://") {
            return Err(InvalidLocation);
        }
        let options = raw.parse().map_err(|_| InvalidLocation)?;
        Ok(Self(Box::new(options)))
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(options) = self;
        let database = options.get_database().unwrap_or(options.get_username());
        match options.get_socket() {
            Some(socket) => write!(f, "the PostgreSQL database {database} at {}", socket.display()),
            None => write!(f, "the PostgreSQL database {database} at {}:{}", options.get_host(), options.get_port()),
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let url: PostgresUrl = "postgres://ada:s3cret@db.example:6000/edgewright".parse().unwrap();
        let location = Location::schema_of(url, "status-collector");
        assert_eq!(
            location.to_string(),
            "schema status_collector of the PostgreSQL database edgewright at db.example:6000"
        );
        assert!(!format!("{location:?}").contains("s3cret"));
        for wrong in ["mysql://ada:s3cret@host/x", "postgres://ada:s3cret@[/x", "/var/lib/file"] {
            assert!(!wrong.parse::<PostgresUrl>().unwrap_err().to_string().contains("s3cret"));
        }
    }
}
