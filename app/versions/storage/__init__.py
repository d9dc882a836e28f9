"""Storage: the models folder, what is added to it, and who signed it."""
