"""Programs for who works on Tessera: what they measure is written down in BENCHMARKS.md."""
