"""Nerve's web service: loads model versions and answers `POST /ner`. It never imports torch."""

__version__ = "0.1.0"
