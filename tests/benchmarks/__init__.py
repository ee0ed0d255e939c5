"""Benchmarks: `compare` runs all libraries side by side, `test_performance` times this one."""
