"""The server: its processes, their log and their metrics."""
