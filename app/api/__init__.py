"""API: answers requests over HTTP."""
