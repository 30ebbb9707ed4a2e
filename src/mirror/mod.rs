//! A store served over the hub's own HTTP API.
