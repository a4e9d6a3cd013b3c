//! `GET /v1/revocations`: what was taken back before its time, for hubs.
//!
//! Public, as the keys are: an id in it is random and tells nobody anything.

use axum::{
    Json,
    extract::{Form, State, rejection::FormRejection},
};
use serde::Deserialize;

use super::{AuthApi, problem::Problem};
use crate::{
    auth::{ServiceError, revocation::Page},
    wire::code::ErrorCode,
};

/// The query.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wish {
    after: Option<String>,
}

/// The codes that [`revocations`] refuses with.
pub const REFUSALS: &[ErrorCode] = &[ErrorCode::Overloaded, ErrorCode::Internal];

/// What was revoked after a number of the feed.
///
/// An entry stays for as long as an access token that it is about could be good; that of a key stays.
///
/// # Errors
/// When the number is none, or the store fails.
#[utoipa::path(
    get, path = "/v1/revocations", tag = "tokens", operation_id = "list_revocations",
    params(("after" = Option<u64>, Query, maximum = 9_223_372_036_854_775_807_i64,
        description = "The last number that is known. Without it: from the start.")),
    responses((status = 200, description = "What came after it.", body = Page)),
)]
pub async fn revocations(
    State(api): State<AuthApi>,
    wish: Result<Form<Wish>, FormRejection>,
) -> Result<Json<Page>, Problem> {
    let after = wish.ok().and_then(|Form(wish)| number(wish.after.as_deref()));
    let Some(after) = after else {
        let problem = Problem::new(ErrorCode::BadRequest);
        return Err(problem.detail("the query is `after` with a number, or nothing"));
    };
    Ok(Json(api.auth.revocations(after).await.map_err(|error| {
        if let ServiceError::Failed(error) = &error {
            tracing::error!(%error, "the revocations could not be read");
        }
        Problem::from(error)
    })?))
}

/// A number of the feed: digits and nothing else, and no more than SQLite counts.
fn number(text: Option<&str>) -> Option<u64> {
    let Some(text) = text else { return Some(0) };
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<i64>().ok().filter(|_| is_plain)?;
    u64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn a_number_is_digits_that_the_store_can_count() {
        assert_eq!(number(None), Some(0));
        assert_eq!(number(Some("0")), Some(0));
        assert_eq!(number(Some("9223372036854775807")), Some(i64::MAX.unsigned_abs()));
        for text in ["", "-1", "+1", " 1", "1e9", "9223372036854775808", "0x1", "1;drop", "\0"] {
            assert_eq!(number(Some(text)), None, "{text:?}");
        }
    }
}
