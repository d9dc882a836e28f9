"""Nerve's training: from labelled and raw text to model versions that the server loads."""

import app  # noqa: F401 - switches ONNX Runtime's telemetry off before anything imports it
