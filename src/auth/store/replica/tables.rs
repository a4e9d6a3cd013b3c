//! What of the account store is shared by the nodes of a cluster: how changed rows are noticed, read
//! and written.

use std::fmt::Write as _;

use bytes::Bytes;
use rusqlite::{
    Connection, OptionalExtension as _, Transaction, params, params_from_iter, types::Value,
};

use super::{
    ReplicaError,
    row::{self, Columns},
};
use crate::engine::rows::Row;

/// A table whose rows all nodes share.
pub(super) struct Shared {
    pub(super) name: &'static str,
    /// The columns of its primary key: one or two.
    key: &'static [&'static str],
    /// Whether its numbers are never used twice: how far they are is shared as well.
    is_numbered: bool,
}

/// All of them. What is in no row of these is a node's own: `replica` and `unknown_columns`.
pub(super) const SHARED: [Shared; 8] = [
    Shared { name: "accounts", key: &["id"], is_numbered: false },
    Shared { name: "sessions", key: &["id"], is_numbered: false },
    Shared { name: "known_addresses", key: &["account", "address"], is_numbered: false },
    Shared { name: "invites", key: &["hash"], is_numbered: false },
    Shared { name: "revocations", key: &["number"], is_numbered: true },
    Shared { name: "keys", key: &["number"], is_numbered: true },
    Shared { name: "facts", key: &["name"], is_numbered: false },
    Shared { name: "key_files", key: &["key_id"], is_numbered: false },
];

/// How far the numbers of a table are, in a table of SQLite's own.
const NUMBERS: &str = "sqlite_sequence";
/// Of accounts: nobody, who is made by a migration on every node.
const NOT_NOBODY: &str = "accounts WHERE id <> 0";

/// Notices from now on which rows this connection changes.
pub(super) fn watch(connection: &Connection) -> rusqlite::Result<()> {
    let mut sql = "CREATE TEMP TABLE changed (
                       row_table TEXT NOT NULL, first, second, PRIMARY KEY (row_table, first, second)
                   ) WITHOUT ROWID;"
        .to_owned();
    for table in &SHARED {
        for (event, row) in [("INSERT", "new"), ("UPDATE", "new"), ("DELETE", "old")] {
            let name = table.name;
            let first = table.key[0];
            let second = table.key.get(1).map_or("''".to_owned(), |key| format!("{row}.{key}"));
            // Writing to a string cannot fail.
            let _ = write!(
                sql,
                "CREATE TEMP TRIGGER {name}_{event} AFTER {event} ON main.{name} BEGIN
                     INSERT OR IGNORE INTO changed VALUES ('{name}', {row}.{first}, {second});
                 END;"
            );
        }
    }
    connection.execute_batch(&sql)
}

/// The rows that this transaction has changed, as they are now. Forgets them.
pub(super) fn take_changed(transaction: &Transaction<'_>) -> rusqlite::Result<Vec<Row>> {
    let changed = transaction
        .prepare_cached("SELECT row_table, first, second FROM temp.changed")?
        .query_map([], |row| Ok((row.get(0)?, [row.get(1)?, row.get(2)?])))?
        .collect::<rusqlite::Result<Vec<(String, [Value; 2])>>>()?;
    if changed.is_empty() {
        return Ok(Vec::new());
    }
    forget_changed(transaction)?;
    let mut rows = Vec::with_capacity(changed.len());
    let mut numbered = Vec::new();
    for (name, key) in changed {
        let Some(table) = SHARED.iter().find(|table| table.name == name) else { continue };
        rows.push(table.read(transaction, &key)?);
        if table.is_numbered && !numbered.contains(&table.name) {
            numbered.push(table.name);
        }
    }
    for name in numbered {
        rows.extend(read_number(transaction, name)?);
    }
    Ok(rows)
}

pub(super) fn forget_changed(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM temp.changed")?.execute([]).map(drop)
}

/// Every row that is shared.
pub(super) fn read_all(connection: &Connection) -> rusqlite::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for table in &SHARED {
        let keys = match table.key {
            [first, second] => format!("{first}, {second}"),
            key => format!("{}, ''", key[0]),
        };
        let name = if table.name == "accounts" { NOT_NOBODY } else { table.name };
        let keys = connection
            .prepare(&format!("SELECT {keys} FROM {name}"))?
            .query_map([], |row| Ok([row.get(0)?, row.get(1)?]))?
            .collect::<rusqlite::Result<Vec<[Value; 2]>>>()?;
        for key in keys {
            rows.push(table.read(connection, &key)?);
        }
        if table.is_numbered {
            rows.extend(read_number(connection, table.name)?);
        }
    }
    Ok(rows)
}

/// Removes every row that is shared.
pub(super) fn clear(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    for table in &SHARED {
        let name = if table.name == "accounts" { NOT_NOBODY } else { table.name };
        transaction.execute_batch(&format!("DELETE FROM {name}"))?;
        transaction.execute("DELETE FROM sqlite_sequence WHERE name = ?1", [table.name])?;
    }
    transaction.execute_batch("DELETE FROM unknown_columns")
}

/// Whether a hubbub has worked with this file: it has made a key then, before anything else.
pub(super) fn is_in_use(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM keys) OR EXISTS (SELECT 1 FROM {NOT_NOBODY})");
    connection.query_row(&sql, [], |row| row.get(0))
}

/// Writes a row as another node has it. One of a table that is not known here is passed over: a
/// hubbub that knows it begins its copy anew.
pub(super) fn apply(transaction: &Transaction<'_>, row: &Row) -> Result<(), ReplicaError> {
    let damaged = || ReplicaError::Damaged { table: row.table.clone(), key: row.key.clone() };
    let columns = row::decode(&row.value).ok_or_else(damaged)?;
    if row.table == NUMBERS {
        let [(_, Value::Text(name)), (_, Value::Integer(number))] = &columns[..] else {
            return Err(damaged());
        };
        return Ok(write_number(transaction, name, *number)?);
    }
    let Some(table) = SHARED.iter().find(|table| table.name == row.table) else { return Ok(()) };
    // The key is in the columns as it is stored; in the row's own key it is text.
    let mut key = Vec::new();
    for name in table.key {
        let found = columns.iter().find(|(column, _)| column == name).ok_or_else(damaged)?;
        key.push(found.1.clone());
    }
    if row.is_passing {
        table.remove(transaction, &row.key, &key)?
    } else {
        table.write(transaction, &row.key, columns)?;
    }
    Ok(())
}

impl Shared {
    /// The row of this key, or the news that it is gone.
    fn read(&self, connection: &Connection, key: &[Value; 2]) -> rusqlite::Result<Row> {
        let key = &key[..self.key.len()];
        let sql = format!("SELECT * FROM {} WHERE {}", self.name, self.is_key());
        let mut statement = connection.prepare_cached(&sql)?;
        let names: Vec<_> = statement.column_names().map(str::to_owned).collect();
        let found: Option<Columns> = statement
            .query_row(params_from_iter(key), |row| {
                names
                    .iter()
                    .enumerate()
                    .map(|(at, name)| Ok((name.clone(), row.get(at)?)))
                    .collect()
            })
            .optional()?;
        let text = self.key_text(key);
        let is_passing = found.is_none();
        let mut columns = found.unwrap_or_else(|| {
            self.key.iter().map(|name| (*name).to_owned()).zip(key.iter().cloned()).collect()
        });
        if !is_passing {
            columns.extend(self.read_unknown(connection, &text)?);
        }
        let value = Bytes::from(row::encode(&columns));
        Ok(Row { table: self.name.to_owned(), key: text, value, is_passing })
    }

    fn write(
        &self,
        transaction: &Transaction<'_>,
        key: &str,
        columns: Columns,
    ) -> rusqlite::Result<()> {
        let known: Vec<String> = transaction
            .prepare_cached("SELECT name FROM pragma_table_info(?1)")?
            .query_map([self.name], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let (columns, unknown): (Columns, Columns) =
            columns.into_iter().partition(|(name, _)| known.contains(name));
        self.write_unknown(transaction, key, &unknown)?;
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        let places = vec!["?"; names.len()].join(", ");
        // What the row does not name stays as it is here.
        let rest = names.iter().filter(|name| !self.key.contains(name));
        let rest: Vec<_> = rest.map(|name| format!("{name} = excluded.{name}")).collect();
        let (table, key) = (self.name, self.key.join(", "));
        let (names, rest) = (names.join(", "), rest.join(", "));
        let sql = format!(
            "INSERT INTO {table} ({names}) VALUES ({places}) ON CONFLICT ({key}) DO UPDATE SET {rest}"
        );
        let values = columns.into_iter().map(|(_, value)| value);
        transaction.prepare_cached(&sql)?.execute(params_from_iter(values)).map(drop)
    }

    fn remove(
        &self,
        transaction: &Transaction<'_>,
        key: &str,
        columns: &[Value],
    ) -> rusqlite::Result<()> {
        self.write_unknown(transaction, key, &[])?;
        let sql = format!("DELETE FROM {} WHERE {}", self.name, self.is_key());
        transaction.prepare_cached(&sql)?.execute(params_from_iter(columns)).map(drop)
    }

    /// Columns that a newer hubbub has given to the row: kept for its next version.
    fn read_unknown(&self, connection: &Connection, key: &str) -> rusqlite::Result<Columns> {
        let columns: Option<Vec<u8>> = connection
            .prepare_cached(
                "SELECT columns FROM unknown_columns WHERE row_table = ?1 AND row_key = ?2",
            )?
            .query_row(params![self.name, key], |row| row.get(0))
            .optional()?;
        Ok(columns.and_then(|columns| row::decode(&columns)).unwrap_or_default())
    }

    fn write_unknown(
        &self,
        transaction: &Transaction<'_>,
        key: &str,
        columns: &[(String, Value)],
    ) -> rusqlite::Result<()> {
        if columns.is_empty() {
            let sql = "DELETE FROM unknown_columns WHERE row_table = ?1 AND row_key = ?2";
            return transaction.prepare_cached(sql)?.execute(params![self.name, key]).map(drop);
        }
        let sql = "INSERT OR REPLACE INTO unknown_columns VALUES (?1, ?2, ?3)";
        let columns = row::encode(columns);
        transaction.prepare_cached(sql)?.execute(params![self.name, key, columns]).map(drop)
    }

    fn is_key(&self) -> String {
        let terms: Vec<_> = self.key.iter().map(|name| format!("{name} = ?")).collect();
        terms.join(" AND ")
    }

    fn key_text(&self, key: &[Value]) -> String {
        let part = |value: &Value| match value {
            Value::Null => String::new(),
            Value::Integer(number) => number.to_string(),
            Value::Real(number) => number.to_string(),
            Value::Text(text) => text.clone(),
            Value::Blob(bytes) => bytes.iter().fold(String::new(), |mut text, byte| {
                // Writing to a string cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            }),
        };
        key.iter().map(part).collect::<Vec<_>>().join("/")
    }
}

fn read_number(connection: &Connection, table: &str) -> rusqlite::Result<Option<Row>> {
    let number: Option<i64> = connection
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = ?1")?
        .query_row([table], |row| row.get(0))
        .optional()?;
    let Some(number) = number else { return Ok(None) };
    let columns = [
        ("name".to_owned(), Value::Text(table.to_owned())),
        ("seq".to_owned(), Value::Integer(number)),
    ];
    let value = Bytes::from(row::encode(&columns));
    let (table, key) = (NUMBERS.to_owned(), table.to_owned());
    Ok(Some(Row { table, key, value, is_passing: false }))
}

fn write_number(transaction: &Transaction<'_>, table: &str, number: i64) -> rusqlite::Result<()> {
    let updated = transaction
        .prepare_cached("UPDATE sqlite_sequence SET seq = ?2 WHERE name = ?1")?
        .execute(params![table, number])?;
    if updated == 0 {
        transaction
            .prepare_cached("INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)")?
            .execute(params![table, number])?;
    }
    Ok(())
}
