"""Commands of `nerve`, one module a group; each command imports what it needs when it runs."""
