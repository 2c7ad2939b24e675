"""Clients that no server wants, each kind in a file of its own."""
