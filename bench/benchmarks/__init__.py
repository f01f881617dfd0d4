"""asv benchmarks, one file an op: `cd bench && asv run --python=same`."""
