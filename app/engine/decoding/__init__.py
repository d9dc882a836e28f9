"""Decoding turns logits into entities with exact probabilities."""
