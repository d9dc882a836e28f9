"""The API: everything HTTP."""
