"""From text to entities, with no knowledge of HTTP: words, windows, batches, sessions, decoding."""
