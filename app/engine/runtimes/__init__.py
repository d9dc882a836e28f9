"""Runtimes: what runs a network, and how it runs best on this machine."""
