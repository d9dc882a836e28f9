"""Text and its spans: reading corpora, cleaning them, and turning them into tensors."""
