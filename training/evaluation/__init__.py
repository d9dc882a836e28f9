"""Evaluation: what was found against what was meant, from files on disk."""
