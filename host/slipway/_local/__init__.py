"""Runs and sessions in this process: runtimes, and single runs without a runtime."""
