"""Benchmarks with their conditions: this machine's limits, our speed and a peer's, in the same run."""
