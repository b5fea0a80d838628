"""How good a model's frozen features are, layer by layer: ``python -m EAT.probe --help``."""
