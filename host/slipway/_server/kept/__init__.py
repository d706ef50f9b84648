"""Runs and sessions that the server keeps after their request, and their output."""
