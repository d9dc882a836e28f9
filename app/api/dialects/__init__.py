"""Dialects: the wire formats. A new one is a module here, a line in `table`, and a wire test."""
