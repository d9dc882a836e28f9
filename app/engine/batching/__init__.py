"""Batching turns rows into logits: it admits requests, chooses which rows run together, and runs them."""
