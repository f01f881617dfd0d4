"""Op dropout: counter-based, the same mask on every backend."""
