//! The command line for people: kubectl's commands, flags and output over Ferrokube's gRPC API.
//!
//! A command is a file below [`commands`]: its flags as a clap struct and one `async fn run`. It works on a [`Session`], which holds
//! the connection, the namespace and the console, so that tests run commands against the in-memory API server.

mod cli;
mod commands;
mod complete;
mod console;
mod describe;
mod error;
mod failures;
mod fetch;
mod follow;
mod gotemplate;
mod kinds;
mod kustomize;
mod manifest;
mod objects;
mod output;
mod pods;
mod progress;
mod rbac;
mod resource_args;
mod rest;
mod session;
mod terminal;
#[cfg(test)]
mod testing;
mod trace;
mod write;

pub use self::cli::main;

use self::session::Session;
