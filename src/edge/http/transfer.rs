//! `/v1/export` and `/v1/import`: bulk data, as streams. A user exports a channel that he may read, on
//! the public port; an operator exports and imports everything, on the internal one.

use std::{io, sync::Arc};

use axum::{
    Extension, Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;

use super::{
    body::{media_type, unsupported},
    chat::{Caller, Chat, Query, bad_request, in_time, refused_with},
    openapi::Routes,
    problem::Problem,
};
use crate::{
    edge::accept::Transfers,
    engine::{Engine, ReadError, Refusal},
    hub::directory::Directory,
    limits::{BUSY_RETRY_AFTER, EXPORTS_MAX},
    transfer::{
        csv::Columns,
        export::{Export, ExportError, Format, Selection},
        import::{ImportError, ImportFailure, Importer, Report},
        writer::WriteError,
    },
    wire::{channels::by_name, code::ErrorCode},
};

const NDJSON: &str = "application/x-ndjson";
const CSV: &str = "text/csv; charset=utf-8; header=present";

/// What is exported, and how.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExportQuery {
    channel: Option<String>,
    format: Option<String>,
    columns: Option<String>,
}

impl ExportQuery {
    fn format(&self) -> Result<Format, Problem> {
        match (self.format.as_deref(), self.columns.as_deref()) {
            (None | Some("ndjson"), None) => Ok(Format::Ndjson),
            (Some("csv"), None) => Ok(Format::Csv(Columns::default())),
            (Some("csv"), Some(columns)) => Columns::parse(columns)
                .map(Format::Csv)
                .map_err(|error| Problem::new(ErrorCode::BadRequest).detail(error.to_string())),
            (None | Some("ndjson"), Some(_)) => Err(bad_request("only CSV has `columns`")),
            (Some(_), _) => Err(bad_request("`format` is ndjson or csv")),
        }
    }
}

/// The codes that an export refuses with.
pub const EXPORT_REFUSALS: &[ErrorCode] = &[
    ErrorCode::UnknownChannel,
    ErrorCode::ChannelSealed,
    ErrorCode::Busy,
    ErrorCode::StorageUnavailable,
    ErrorCode::Internal,
];

/// Exports a channel.
///
/// All that was in its log when the request came: as NDJSON, which an import reads back, or the
/// messages alone as CSV, where a cell that a program for tables would take for a formula begins with
/// an apostrophe. A body that breaks off before its end is not the whole.
///
/// # Errors
/// When there is no such channel for this user, or the log cannot be read.
#[utoipa::path(
    get, path = "/v1/export", tag = "bulk", operation_id = "export_channel",
    security(("bearer" = [])),
    params(
        ("channel" = String, Query, description = "The channel's name.", example = "lobby"),
        ("format" = Option<String>, Query, description = "`ndjson` (default) or `csv`.",
            pattern = "^(ndjson|csv)$"),
        ("columns" = Option<String>, Query, description = "Of CSV: some of channel, sequence, time, \
            author, user, id and body, in this order, with commas between them."),
    ),
    responses((status = 200, description = "The channel, streamed.", content(
        (String = "application/x-ndjson"), (String = "text/csv")))),
)]
pub async fn export_channel<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Query(query): Query<ExportQuery>,
    transfers: Option<Extension<Transfers>>,
) -> Result<Response, Problem> {
    let format = query.format()?;
    let name = query.channel.ok_or_else(|| bad_request("`channel` says which one"))?;
    let channel = by_name(name).map_err(Problem::new)?;
    let directory = api.desk.directory();
    let found = in_time(directory.channel_for(user, &channel)).await?;
    let selection = Selection::One(found.map_err(|error| refused_with((&error).into()))?);
    let place = place(&api.exports)?;
    export(api.desk.engine(), directory, selection, format, (transfers, place)).await
}

/// What the operator's addresses of bulk data need.
pub struct Bulk<E> {
    engine: Arc<E>,
    directory: Arc<Directory<E>>,
    importer: Importer,
    /// Places for exports.
    exports: Arc<Semaphore>,
}

impl<E> Clone for Bulk<E> {
    fn clone(&self) -> Self {
        Self {
            engine: Arc::clone(&self.engine),
            directory: Arc::clone(&self.directory),
            importer: self.importer.clone(),
            exports: Arc::clone(&self.exports),
        }
    }
}

impl<E: Engine> Bulk<E> {
    /// Of this engine's logs.
    #[must_use]
    pub fn new(engine: Arc<E>, directory: Arc<Directory<E>>, importer: Importer) -> Self {
        let exports = Arc::new(Semaphore::new(EXPORTS_MAX));
        Self { engine, directory, importer, exports }
    }

    /// The operator's addresses. For those who know the secret only.
    pub fn routes(&self) -> Routes {
        Routes::new("").with(__path_export_all, export_all::<E>, self, EXPORT_REFUSALS).with(
            __path_import,
            import::<E>,
            self,
            IMPORT_REFUSALS,
        )
    }
}

/// Exports everything, or a channel.
///
/// Channels by name, each a line of its own and then its log, at one moment for all of them. Otherwise
/// as the export of a channel on the public port.
///
/// # Errors
/// When there is no such channel, or the log cannot be read.
#[utoipa::path(
    get, path = "/v1/export", tag = "bulk", operation_id = "export_all",
    security(("bearer" = [])),
    params(
        ("channel" = Option<String>, Query, description = "This channel only.", example = "lobby"),
        ("format" = Option<String>, Query, description = "`ndjson` (default) or `csv`.",
            pattern = "^(ndjson|csv)$"),
        ("columns" = Option<String>, Query, description = "Of CSV: some of channel, sequence, time, \
            author, user, id and body, in this order, with commas between them."),
    ),
    responses((status = 200, description = "The channels, streamed.", content(
        (String = "application/x-ndjson"), (String = "text/csv")))),
)]
async fn export_all<E: Engine>(
    State(bulk): State<Bulk<E>>,
    Query(query): Query<ExportQuery>,
    transfers: Option<Extension<Transfers>>,
) -> Result<Response, Problem> {
    let format = query.format()?;
    let selection = match query.channel {
        None => Selection::All,
        Some(name) => {
            let found = in_time(bulk.directory.channel_by_name(&name)).await?;
            Selection::One(found.map_err(|error| refused_with((&error).into()))?)
        }
    };
    let place = place(&bulk.exports)?;
    export(&bulk.engine, &bulk.directory, selection, format, (transfers, place)).await
}

async fn export<E: Engine>(
    engine: &Arc<E>,
    directory: &Arc<Directory<E>>,
    selection: Selection,
    format: Format,
    (transfers, place): (Option<Extension<Transfers>>, OwnedSemaphorePermit),
) -> Result<Response, Problem> {
    let (content_type, ending) = match &format {
        Format::Ndjson => (NDJSON, "ndjson"),
        Format::Csv(_) => (CSV, "csv"),
    };
    let name = match &selection {
        // A channel's name has no character that a file's name or a header may not have.
        Selection::One(channel) => channel.name.to_string(),
        Selection::All => "hubbub".to_owned(),
    };
    let begun = Export::begin(Arc::clone(engine), Arc::clone(directory), selection, format);
    let begun = in_time(begun).await?.map_err(|error| refused_with(code(&error)))?;
    let stream = begun.into_stream().map_err(move |error| {
        // Given back when the stream is dropped.
        let _held = &place;
        tracing::error!(error = &error as &dyn std::error::Error, "an export broke off");
        io::Error::other(error)
    });
    let mut response = Body::from_stream(watched(stream, transfers)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let file = format!("attachment; filename=\"{name}.{ending}\"");
    if let Ok(file) = HeaderValue::from_str(&file) {
        headers.insert(header::CONTENT_DISPOSITION, file);
    }
    Ok(response)
}

/// A place among the exports of one port, for as long as it is held.
fn place(exports: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Problem> {
    Arc::clone(exports).try_acquire_owned().map_err(|_| refused_with(ErrorCode::Busy))
}

fn code(error: &ExportError) -> ErrorCode {
    match error {
        ExportError::Log(ReadError::Busy) => ErrorCode::Busy,
        ExportError::Log(ReadError::StorageUnavailable) => ErrorCode::StorageUnavailable,
        ExportError::Log(ReadError::Damaged { .. }) => ErrorCode::ChannelSealed,
        ExportError::Directory(error) => error.into(),
        ExportError::BrokenChain(_) | ExportError::Record { .. } | ExportError::UnknownUser(_) => {
            ErrorCode::Internal
        }
    }
}

/// Tells the connection of each piece, so that it is not taken for one that does not move.
fn watched<T>(
    pieces: impl Stream<Item = T>,
    transfers: Option<Extension<Transfers>>,
) -> impl Stream<Item = T> {
    let transfer = transfers.map(|Extension(transfers)| transfers.begin());
    pieces.inspect(move |_| {
        if let Some(transfer) = &transfer {
            transfer.moved();
        }
    })
}

/// What became of an import.
#[derive(Serialize, ToSchema)]
pub struct Imported {
    result: ImportResult,
}

/// How far an import came, and why not further if so.
#[derive(Serialize, ToSchema)]
pub struct ImportResult {
    /// `ok`, or `incomplete`: then what is counted is in the log, and the same import goes on there.
    #[schema(pattern = "^(ok|incomplete)$")]
    status: &'static str,
    /// Why it is incomplete.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    report: Report,
}

/// The codes that an import refuses with.
pub const IMPORT_REFUSALS: &[ErrorCode] = &[
    ErrorCode::QuotaExhausted,
    ErrorCode::Busy,
    ErrorCode::StorageUnavailable,
    ErrorCode::Internal,
];

/// Imports lines of NDJSON.
///
/// While they come, in any number: each a message (`channel`, `author`, `time`, `body`; `user`, `id` and
/// `sequence` are optional), or a line as an export writes it. What is there already is not added
/// again. `docs/IMPORT.md` has the format.
///
/// # Errors
/// When it is no NDJSON by its content type, or the import did not come to its end: then the problem's
/// `detail` says how far it came, and the same import goes on there.
#[utoipa::path(
    post, path = "/v1/import", tag = "bulk", operation_id = "import",
    security(("bearer" = [])),
    request_body(content = String, content_type = "application/x-ndjson",
        example = json!("{\"channel\":\"lobby\",\"author\":\"ada\",\"time\":\"2026-11-21T12:00:00Z\",\"body\":\"hello\"}")),
    responses((status = 200, description = "All of it was read.", body = Imported)),
)]
async fn import<E: Engine>(
    State(bulk): State<Bulk<E>>,
    transfers: Option<Extension<Transfers>>,
    request: Request,
) -> Result<Json<Imported>, Problem> {
    check_ndjson(&request)?;
    let frames = request.into_body().into_data_stream();
    let body = watched(frames, transfers);
    match bulk.importer.import(body).await {
        Ok(report) => {
            Ok(Json(Imported { result: ImportResult { status: "ok", error: None, report } }))
        }
        Err(error) => Err(incomplete(&error)),
    }
}

fn check_ndjson(request: &Request) -> Result<(), Problem> {
    let media_type = media_type(request)?;
    let is_ndjson = [NDJSON, "application/ndjson", "application/jsonl"]
        .iter()
        .any(|known| media_type.eq_ignore_ascii_case(known));
    if is_ndjson { Ok(()) } else { Err(unsupported("expected application/x-ndjson")) }
}

/// The problem that an import is which did not come to its end.
fn incomplete(error: &ImportError) -> Problem {
    let ImportError { report, why } = error;
    let code = match why {
        ImportFailure::Busy => ErrorCode::Busy,
        ImportFailure::Body(_) | ImportFailure::Stalled => ErrorCode::BadRequest,
        ImportFailure::Write(WriteError::NoRoom(_)) => ErrorCode::QuotaExhausted,
        ImportFailure::Write(WriteError::Directory(error)) => error.into(),
        ImportFailure::Write(WriteError::Refused(Refusal::Busy) | WriteError::Contended) => {
            ErrorCode::Busy
        }
        ImportFailure::Write(
            WriteError::Refused(Refusal::StorageUnavailable)
            | WriteError::Past(_)
            | WriteError::Tail(_),
        ) => ErrorCode::StorageUnavailable,
        ImportFailure::Write(WriteError::Refused(Refusal::TooLarge) | WriteError::Behind)
        | ImportFailure::Stopped => ErrorCode::Internal,
    };
    let stats = &report.stats;
    let detail = format!(
        "{why}; of {} bytes that were read, {} lines were added and {} were there before; the same \
         import goes on from there",
        stats.bytes, stats.added, stats.known
    );
    let problem = Problem::new(code).detail(detail);
    if code.again() { problem.retry_after(BUSY_RETRY_AFTER) } else { problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::MemoryEngine;

    #[tokio::test]
    async fn exports_beyond_the_bound_are_busy_until_one_ends() {
        let engine = Arc::new(MemoryEngine::default());
        let directory = Arc::new(Directory::new(Arc::clone(&engine)));
        let exports = Arc::new(Semaphore::new(EXPORTS_MAX));
        let begin = async || {
            let place = place(&exports)?;
            export(&engine, &directory, Selection::All, Format::Ndjson, (None, place)).await
        };
        let mut begun = Vec::new();
        for _ in 0..EXPORTS_MAX {
            begun.push(begin().await.unwrap());
        }
        assert_eq!(begin().await.unwrap_err().code(), ErrorCode::Busy);
        begun.pop();
        assert!(begin().await.is_ok());
    }
}
