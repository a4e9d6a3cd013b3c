//! The token of a request: `Authorization: Bearer …` (RFC 6750), and what is answered if it is not
//! good.

use axum::http::{HeaderMap, header};

use super::problem::Problem;
use crate::{auth::token::TokenError, wire::code::ErrorCode};

/// The token that the request brings.
///
/// # Errors
/// When it brings none, several, or something else.
pub fn token(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let Some(line) = lines.next() else { return Err(Problem::new(ErrorCode::NotAuthenticated)) };
    if lines.next().is_some() {
        return Err(Problem::new(ErrorCode::BadRequest).detail("more than one token"));
    }
    match line.to_str().ok().and_then(|line| line.split_once(' ')) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Problem::new(ErrorCode::NotAuthenticated)
            .detail("the only scheme of Authorization is Bearer")),
    }
}

/// The token is not good. Why is for nobody to know.
#[must_use]
pub fn refusal(error: TokenError) -> Problem {
    match error {
        TokenError::Expired => Problem::new(ErrorCode::TokenExpired),
        _ => Problem::new(ErrorCode::InvalidToken),
    }
}

/// The token was good: its session is revoked, or its user disabled or gone. To the client it is as
/// any other that is not good (RFC 6750 §3.1).
#[must_use]
pub fn revoked() -> Problem {
    Problem::new(ErrorCode::InvalidToken)
}

#[cfg(test)]
mod tests {
    use axum::{http::HeaderValue, response::IntoResponse as _};

    use super::*;

    #[test]
    fn exactly_one_bearer_token_is_taken() {
        for (lines, expected) in [
            (&["Bearer a.b.c"][..], Ok("a.b.c")),
            (&["bearer  a.b.c "], Ok("a.b.c")),
            (&[], Err(401)),
            (&["Basic YTpi"], Err(401)),
            (&["a.b.c"], Err(401)),
            (&["Bearer"], Err(401)),
            (&["Bearer a", "Bearer a"], Err(400)),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(line));
            }
            let found = token(&headers);
            let found = found.map_err(|problem| problem.into_response().status().as_u16());
            assert_eq!(found, expected, "{lines:?}");
        }
    }
}
