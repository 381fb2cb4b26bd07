//! Version 7. Keys in `s3://` URLs stand as they are; before, they were percent-encoded.
//!
//! What is stored is rewritten, so that it goes on to name the same objects: `s3://b/a%20b` was the key `a b`, and would be
//! another one now.

use rusqlite::{Transaction, params};

use crate::source::url::{RequestedUrl, literal};

/// Rewrites every URL that would be read in another way.
pub(super) fn rewrite(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    for (row, url) in encoded(transaction, "jobs")? {
        // A repeat of the request is one that names the same object now.
        let requested = RequestedUrl::new(&url);
        transaction.execute(
            "UPDATE jobs SET image_url = ?2, image_identity = ?3 WHERE rowid = ?1",
            params![row, requested.base(), requested.identity()],
        )?;
    }
    for table in ["images", "partials", "golden"] {
        for (row, url) in encoded(transaction, table)? {
            let update = format!("UPDATE OR IGNORE {table} SET image_url = ?2 WHERE rowid = ?1");
            transaction.execute(&update, params![row, url])?;
        }
    }
    Ok(())
}

/// The rows of a table whose URL is another text now, and that text.
fn encoded(transaction: &Transaction<'_>, table: &str) -> rusqlite::Result<Vec<(i64, String)>> {
    let query = format!(
        "SELECT rowid, image_url FROM {table} WHERE image_url LIKE 's3://%\\%%' ESCAPE '\\'"
    );
    let mut statement = transaction.prepare(&query)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut found = Vec::new();
    for row in rows {
        let (row, url): (i64, String) = row?;
        found.extend(literal(&url).map(|url| (row, url)));
    }
    Ok(found)
}
