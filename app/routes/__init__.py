"""Routes: parse, call, render. What they call knows no HTTP."""
