//! What a pin shows: merged reads, and the tree of nodes that a mount presents.

pub mod tree;
