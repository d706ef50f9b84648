"""Runs and sessions on a server, over its HTTP API."""
