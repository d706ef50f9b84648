"""Admission of runs: which may start now, by counts of machines, memory and vCPUs."""
