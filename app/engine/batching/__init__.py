"""Batching: who may wait, what runs next and what runs it; from rows to logits."""
