//! The table `apps`: the only file that knows how the catalogue is kept.

use std::collections::BTreeMap;

use anyhow::Context;
use api::{App, AppContent, AppProfile, AppRef};
use bus::{Repository, proto};
use margo::{AppId, AppVersion, ComponentName, Digest, TenantName};
use outbox::Outbox;
use sqlx::{FromRow, SqliteConnection, SqlitePool, types::Json};

/// The catalogue. Cheap to clone.
#[derive(Clone)]
pub struct Catalogue {
    pool: SqlitePool,
    outbox: Outbox,
    tenant: TenantName,
}

/// What became of an application that was to be added.
#[derive(Debug, PartialEq)]
pub enum Added {
    /// It is in the catalogue now.
    New,
    /// It was already, with the same content.
    Same(App),
    /// Its version is, with other content.
    Taken,
}

#[derive(FromRow)]
struct Row {
    #[sqlx(try_from = "String")]
    id: AppId,
    #[sqlx(try_from = "String")]
    version: AppVersion,
    name: String,
    profiles: Json<Vec<AppProfile>>,
    #[sqlx(try_from = "String")]
    digest: Digest,
    lock: Json<BTreeMap<ComponentName, Digest>>,
    description: String,
    added_by: String,
    added_at: String,
}

impl From<Row> for AppContent {
    fn from(row: Row) -> Self {
        Self {
            app: App {
                id: row.id,
                version: row.version,
                name: row.name,
                profiles: row.profiles.0,
                digest: row.digest,
                added_by: row.added_by,
                added_at: row.added_at,
            },
            description: row.description,
            lock: row.lock.0,
        }
    }
}

impl Catalogue {
    /// Opens the catalogue, and makes its table when there is none.
    pub async fn open(pool: SqlitePool, outbox: Outbox, tenant: TenantName) -> anyhow::Result<Self> {
        sqlx::migrate!().run(&pool).await.context("preparing the catalogue")?;
        Ok(Self { pool, outbox, tenant })
    }

    /// All applications, versions in the order in which they were added.
    pub async fn list(&self) -> Result<Vec<App>, sqlx::Error> {
        let rows: Vec<Row> = sqlx::query_as("SELECT * FROM apps WHERE tenant = $1 ORDER BY id, rowid")
            .bind(self.tenant.as_str())
            .fetch_all(&self.pool)
            .await?;
        Ok(rows.into_iter().map(|row| AppContent::from(row).app).collect())
    }

    /// One application.
    pub async fn get(&self, app: &AppRef) -> Result<Option<AppContent>, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        self.get_in(&mut connection, app).await
    }

    async fn get_in(&self, connection: &mut SqliteConnection, app: &AppRef) -> Result<Option<AppContent>, sqlx::Error> {
        let row: Option<Row> = sqlx::query_as("SELECT * FROM apps WHERE tenant = $1 AND id = $2 AND version = $3")
            .bind(self.tenant.as_str())
            .bind(app.id.as_str())
            .bind(app.version.as_str())
            .fetch_optional(connection)
            .await?;
        Ok(row.map(Into::into))
    }

    /// Whether this content could be added: what [`Catalogue::add`] would say now.
    pub async fn look(&self, content: &AppContent) -> Result<Added, sqlx::Error> {
        let held = self.get(&AppRef { id: content.app.id.clone(), version: content.app.version.clone() }).await?;
        Ok(compare(held, content))
    }

    /// Adds an application with its commit in `fleet.git`, both or neither.
    pub async fn add(&self, content: &AppContent, commit: proto::GitWrite) -> Result<Added, sqlx::Error> {
        let app = &content.app;
        let mut transaction = self.pool.begin().await?;
        let held = self.get_in(&mut transaction, &AppRef { id: app.id.clone(), version: app.version.clone() }).await?;
        let added = compare(held, content);
        if added != Added::New {
            return Ok(added);
        }
        let insert = "INSERT INTO apps
                (tenant, id, version, name, profiles, digest, lock, description, added_by, added_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        sqlx::query(insert)
            .bind(self.tenant.as_str())
            .bind(app.id.as_str())
            .bind(app.version.as_str())
            .bind(&app.name)
            .bind(Json(&app.profiles))
            .bind(app.digest.to_string())
            .bind(Json(&content.lock))
            .bind(&content.description)
            .bind(&app.added_by)
            .bind(&app.added_at)
            .execute(&mut *transaction)
            .await?;
        self.outbox.append(&mut transaction, &Repository::Fleet, commit).await?;
        transaction.commit().await?;
        self.outbox.wake();
        Ok(Added::New)
    }
}

/// A version is its package and its components: either with another digest is other content.
fn compare(held: Option<AppContent>, content: &AppContent) -> Added {
    match held {
        None => Added::New,
        Some(held) if held.app.digest == content.app.digest && held.lock == content.lock => Added::Same(held.app),
        Some(_) => Added::Taken,
    }
}
