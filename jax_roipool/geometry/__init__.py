"""Where a coordinate becomes a cell: the plain-JAX twins of csrc/core."""
