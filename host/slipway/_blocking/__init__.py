"""The blocking forms of runtimes, clients, runs and sessions."""
