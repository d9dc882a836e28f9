"""Versions: where they lie, how they are loaded, and which of them serves."""
