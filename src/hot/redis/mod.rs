//! Engine, to be written.
