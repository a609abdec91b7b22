"""Benchmarks: programs that print one table each, measured side by side in one run on one kernel."""
