//! The flat store: one folder a model under a base folder.
