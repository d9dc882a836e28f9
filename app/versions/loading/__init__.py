"""Loading turns a version's folder into a model that passed its self-test."""
