"""Run untrusted code in microVMs."""
