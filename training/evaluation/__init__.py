"""This package compares the entities that versions find with the annotated ones, and reports on both."""
