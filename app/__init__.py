"""Nerve's web service: loads model versions and answers `POST /ner`. It never imports torch."""

import os

__version__ = "0.1.0"

# ONNX Runtime reports its use to its makers from the moment it is imported, unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
