"""Measurements with their conditions: this machine's limits, ours, a peer's, in the same run."""
