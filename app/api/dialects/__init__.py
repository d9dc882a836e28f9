"""Dialects: how a caller asks and is answered."""
