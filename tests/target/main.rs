//! A sweep against a server: a scripted one, so that counts and reasons are known beforehand.

mod command;
mod contact;
mod loads;
mod server;
