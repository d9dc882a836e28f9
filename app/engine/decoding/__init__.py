"""Decoding: from logits to entities with exact probabilities."""
