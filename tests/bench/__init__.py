"""Benchmarks: they print what they measure on the machine at hand, and assert nothing."""
