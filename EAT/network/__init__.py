"""The network in plain PyTorch: encoder, decoder, teacher, objective, and the pre-training that joins them."""
