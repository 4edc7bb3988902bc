//! The binary, run as its users run it.

#[cfg(test)]
#[path = "../../../operator/tests/table/mod.rs"]
mod cases;
#[cfg(test)]
mod check;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod doctor_webhook;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod operator;
#[cfg(test)]
mod render;
#[cfg(test)]
mod table;
#[cfg(test)]
mod taken;
