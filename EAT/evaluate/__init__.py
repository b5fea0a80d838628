"""How well a fine-tuned model does on a manifest, and a report of it: ``python -m EAT.evaluate --help``."""
