//! How the catalogue is kept: the only file that knows SQL.
//!
//! **Layout.** The table `apps` has one row for each application at a version, with the exact text of its description;
//! components and profiles are small lists that are only read whole, so they are JSON in a column.
//!
//! **Updates.** A row is written once, in the transaction that appends its commit to the outbox, and never changed. The
//! content that the row names is in the OCI store before. `number` counts the rows of the table, so that versions are
//! listed in the order in which they were added.
//!
//! **After a crash.** Either the row and its commit are there or neither is. Content without a row is found again by the
//! same upload.

use std::collections::BTreeMap;

use ::store::{Access, Database, Migrations, Row, StoreError, Table};
use anyhow::Context;
use api::{App, AppContent, AppRef};
use bus::proto;
use margo::{ComponentName, Digest, LockedImages, RepositoryName, TenantName};
use outbox::Outbox;

static APPS: Table = Table::new("apps", &["id", "version"]);

const MIGRATIONS: Migrations = Migrations::new(&[
    (1, "apps", include_str!("../migrations/1_apps.sql")),
    (2, "images", include_str!("../migrations/2_images.sql")),
]);

/// The catalogue. Cheap to clone.
#[derive(Clone)]
pub struct Catalogue {
    database: Database,
    outbox: Outbox,
    tenant: TenantName,
}

/// What became of an application that was to be added.
#[derive(Debug, PartialEq)]
pub enum Added {
    /// The application is in the catalogue now.
    New,
    /// The application was in the catalogue already, with the same content.
    Same(App),
    /// The version is in the catalogue with other content.
    Taken,
}

impl Catalogue {
    /// Opens the catalogue, and makes its table when there is none.
    pub async fn open(database: Database, outbox: Outbox, tenant: TenantName) -> anyhow::Result<Self> {
        database.migrate(&MIGRATIONS).await.context("preparing the catalogue")?;
        Ok(Self { database, outbox, tenant })
    }

    /// All applications by id, the versions of each in the order in which they were added.
    pub async fn list(&self) -> Result<Vec<App>, StoreError> {
        let query = APPS.query(
            "SELECT id, version, name, profiles, digest, added_by, added_at FROM apps WHERE tenant = $1
             ORDER BY id, number",
        );
        query.bind(self.tenant.as_str()).fetch_all(&self.database).await?.iter().map(read_app).collect()
    }

    /// One application with all that a deployment is made of.
    pub async fn get(&self, app: &AppRef) -> Result<Option<AppContent>, StoreError> {
        self.get_on(&self.database, app).await
    }

    async fn get_on(&self, on: impl Into<Access<'_>>, app: &AppRef) -> Result<Option<AppContent>, StoreError> {
        let query = APPS.query("SELECT * FROM apps WHERE tenant = $1 AND id = $2 AND version = $3");
        let query = query.bind(self.tenant.as_str()).bind(app.id.as_str()).bind(app.version.as_str());
        query.fetch_optional(on).await?.as_ref().map(read_content).transpose()
    }

    /// What [`Catalogue::add`] would say now of this content.
    pub async fn look(&self, content: &AppContent) -> Result<Added, StoreError> {
        let held = self.get(&AppRef { id: content.app.id.clone(), version: content.app.version.clone() }).await?;
        Ok(compare(held, content))
    }

    /// Adds an application with its commit in `fleet.git`, both or neither.
    pub async fn add(&self, content: &AppContent, commit: proto::GitWrite) -> Result<Added, StoreError> {
        let app = &content.app;
        let mut tx = self.database.begin().await?;
        let held = self.get_on(&mut tx, &AppRef { id: app.id.clone(), version: app.version.clone() }).await?;
        let added = compare(held, content);
        if added != Added::New {
            return Ok(added);
        }
        let insert = APPS.query(
            "INSERT INTO apps
                (tenant, id, version, name, profiles, digest, lock, description, added_by, added_at, images, number)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, (SELECT coalesce(max(number), 0) + 1 FROM apps))",
        );
        insert
            .bind(self.tenant.as_str())
            .bind(app.id.as_str())
            .bind(app.version.as_str())
            .bind(&app.name)
            .bind(::store::json(&app.profiles))
            .bind(app.digest.to_string())
            .bind(::store::json(&content.lock))
            .bind(&content.description)
            .bind(&app.added_by)
            .bind(&app.added_at)
            .bind(::store::json(&content.images))
            .execute(&mut tx)
            .await?;
        let appended = self.outbox.append_all(&mut tx, vec![(RepositoryName::Fleet, commit)]).await?;
        tx.commit().await?;
        self.outbox.wake(&appended);
        Ok(Added::New)
    }
}

fn read_app(row: &Row) -> Result<App, StoreError> {
    Ok(App {
        id: row.parse("id")?,
        version: row.parse("version")?,
        name: row.string("name")?,
        profiles: row.json("profiles")?,
        digest: row.parse("digest")?,
        added_by: row.string("added_by")?,
        added_at: row.string("added_at")?,
    })
}

fn read_content(row: &Row) -> Result<AppContent, StoreError> {
    let lock: BTreeMap<ComponentName, Digest> = row.json("lock")?;
    let images: BTreeMap<ComponentName, LockedImages> = row.json("images")?;
    Ok(AppContent { app: read_app(row)?, description: row.string("description")?, lock, images })
}

/// A version is its package, its components and their images: any of them with another digest is other content.
fn compare(held: Option<AppContent>, content: &AppContent) -> Added {
    match held {
        None => Added::New,
        Some(held)
            if held.app.digest == content.app.digest && held.lock == content.lock && held.images == content.images =>
        {
            Added::Same(held.app)
        }
        Some(_) => Added::Taken,
    }
}

#[cfg(test)]
mod tests;
