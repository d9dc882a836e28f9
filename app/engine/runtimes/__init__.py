"""Runtimes: what opens a network and runs it, one module for each kind of device, and how it runs best."""
