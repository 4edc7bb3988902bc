//! The proxy over real sockets, between raw clients and a scripted identity provider and MCP server.

// `cfg(test)` tells clippy that helpers in these files are test code too.
#[cfg(test)]
mod audit;
#[cfg(test)]
mod authentication;
#[cfg(test)]
mod authorization;
#[cfg(test)]
mod aws;
#[cfg(test)]
mod body;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod entrance;
#[cfg(test)]
mod fixed_credentials;
#[cfg(test)]
mod forward;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod headers;
#[cfg(test)]
mod impostors;
#[cfg(test)]
mod issuers;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod outgoing;
#[cfg(test)]
mod outgoing_aws;
#[cfg(test)]
mod outgoing_hostile;
#[cfg(test)]
mod probe;
#[cfg(test)]
mod redirects;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod runconfig_keys;
#[cfg(test)]
mod smuggling;
#[cfg(test)]
mod status;
#[cfg(test)]
mod suspended;
#[cfg(test)]
mod toolhive_rows;
#[cfg(test)]
mod tools;
