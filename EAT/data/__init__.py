"""Manifests, and clips in batches."""
