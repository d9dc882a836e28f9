"""This package turns a checkpoint into a version folder: ONNX export, quantization and packaging."""
