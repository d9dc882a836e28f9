"""The command line: one module a group of commands, which imports what a command needs when it runs."""
