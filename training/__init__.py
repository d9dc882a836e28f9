"""Nerve's training: from labelled and raw text to model versions that the server loads."""
