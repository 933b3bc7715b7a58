//! Drawings of lines of text, whose parts may stand on a ground of their own.

pub mod frame;
pub mod svg;
