"""Networks that come as ONNX files, with a record of what they take and give."""
