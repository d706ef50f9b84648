"""Jail of processes that handle input of a guest: identity, namespaces, root tree, filters."""
