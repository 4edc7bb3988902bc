//! The Authorization header (RFC 6750 §2.1).

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use crate::error::AuthError;

/// Takes the token out of the Authorization header. The scheme is compared without case
/// (RFC 9110 §11.1).
///
/// # Errors
/// When there is no header, more than one, another scheme, or no token.
pub fn token(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(AuthError::MissingToken)?;
    if values.next().is_some() {
        return Err(AuthError::SeveralTokens);
    }
    in_value(value)
}

/// Takes the token out of the value of an Authorization header.
///
/// # Errors
/// When it has another scheme, or no token.
pub fn in_value(value: &HeaderValue) -> Result<&str, AuthError> {
    let text = value.to_str().map_err(|_| AuthError::WrongScheme)?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(AuthError::WrongScheme);
    }
    let token = token.trim_matches(' ');
    if token.is_empty() {
        return Err(AuthError::EmptyToken);
    }
    if token.contains([' ', ',', '\t']) {
        return Err(AuthError::WrongScheme);
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_has_no_case_and_there_is_one_token() {
        for (values, expected) in [
            (vec!["Bearer abc"], Ok("abc")),
            (vec!["bearer abc"], Ok("abc")),
            (vec!["BEARER  abc "], Ok("abc")),
            (vec![], Err(AuthError::MissingToken)),
            (vec!["Bearer"], Err(AuthError::EmptyToken)),
            (vec!["Bearer "], Err(AuthError::EmptyToken)),
            (vec!["Basic abc"], Err(AuthError::WrongScheme)),
            (vec!["abc"], Err(AuthError::WrongScheme)),
            (vec!["Bearer a b"], Err(AuthError::WrongScheme)),
            (vec!["Bearer a, Bearer b"], Err(AuthError::WrongScheme)),
            (vec!["Bearer a", "Bearer b"], Err(AuthError::SeveralTokens)),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(token(&headers), expected, "{values:?}");
        }
    }
}
