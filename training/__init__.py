"""Nerve's training makes model versions, which the server loads, from labelled and raw text."""

import app  # noqa: F401 - switches ONNX Runtime's telemetry off before anything imports it
