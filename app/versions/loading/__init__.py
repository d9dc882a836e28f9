"""Loading: from a version's folder to a model that passed its self-test."""
