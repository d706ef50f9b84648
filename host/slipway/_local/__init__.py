"""Runs and sessions in this process: the runtimes, and one run without a runtime."""
