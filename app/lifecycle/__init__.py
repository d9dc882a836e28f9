"""Which versions exist, which should be served, and getting from one to the other."""
