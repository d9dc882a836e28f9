"""Ensemble: several networks that answer as one."""
