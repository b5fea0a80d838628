"""What a trained model is used for: features, class scores, evaluation and probes."""
