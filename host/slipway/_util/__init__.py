"""Errors, and small helpers that know nothing of runs: text, threads, memory, near names."""
