"""JSON between server and client, in both directions, with every field checked.

Functions for the server raise InputError. Those for the client (events, results, errors) raise
UnknownOutcome, because a job may have run already.
"""
