"""Rollout: bring what this process serves to what the operator wants."""
