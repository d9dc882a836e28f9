"""Whole corpora: files in, files with entities out, in constant memory and resumable."""
