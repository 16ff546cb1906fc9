"""ONNX files: flattened, evaluated node by node in ONNX Runtime, edited and converted."""
