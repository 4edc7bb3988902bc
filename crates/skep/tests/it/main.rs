//! The binary, run as its users run it.

#[cfg(test)]
mod check;
#[cfg(test)]
mod render;
#[cfg(test)]
mod taken;
