"""Benchmark programs for Tessera's developers; BENCHMARKS.md records their results."""
