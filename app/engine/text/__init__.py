"""This package turns a text into words, sub-tokens, windows and rows."""
