"""Benchmarks: `compare` runs everybody side by side, `test_performance` times ourselves."""
