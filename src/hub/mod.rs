//! Where models come from: a client of the hub's HTTP API, and the catalog of well-known models.

mod address;
mod api;
mod body;
mod catalog;
mod client;
mod http;
mod listing;
mod refusal;
mod search;
mod secret;
mod stated;
mod tls;
mod token;

pub use address::shown_endpoint;
pub use body::Address;
pub use catalog::{Catalog, CatalogEntry};
pub use client::{Body, HubClient, HubOptions};
pub use listing::{Listing, Repository, Summary};
pub use search::{SearchHit, SearchQuery};
pub(crate) use tls::loopback_client;
pub use token::Token;
