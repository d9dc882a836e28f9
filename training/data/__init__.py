"""This package reads labelled texts, cleans them and turns them into tensors."""
