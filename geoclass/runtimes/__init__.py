"""What a bundle's network runs on: PyTorch, OpenVINO or ONNX Runtime, behind one interface (`answers.Runner`)."""
