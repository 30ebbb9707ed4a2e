//! The journal beside a partial file: which bytes are safely on disk, and of what.
