"""Text: words, sub-tokens and windows; from a text to rows."""
