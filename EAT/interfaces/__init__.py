"""A trained model as other programs ask for one: HEAR, X-ARES, scikit-learn, ONNX runtimes."""
