//! The authorization server through real HTTP.

// `cfg(test)` tells clippy that helpers in these files are test code too.
#[cfg(test)]
mod discovery;
#[cfg(test)]
mod running;
#[cfg(test)]
mod token;
#[cfg(test)]
mod token_exchange;
#[cfg(test)]
mod user_tokens;
