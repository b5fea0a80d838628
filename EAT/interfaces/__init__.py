"""A trained model as other programs ask for one: HEAR, X-ARES, mteb, scikit-learn, ONNX runtimes."""
