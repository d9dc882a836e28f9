"""From a fine-tuned checkpoint to a version folder: ONNX, precision, gate, packaging."""
