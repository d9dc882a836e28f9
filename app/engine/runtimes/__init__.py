"""Runtimes open networks and run them, one module for each kind of device, and find how they run best."""
