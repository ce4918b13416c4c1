"""all-MiniLM-L6-v2 as an ONNX model folder."""
