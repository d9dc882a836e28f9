"""Rollout: from what should serve to what serves."""
