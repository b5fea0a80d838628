"""Features of many recordings: finding them, decoding ahead, batches of like length, and writing whole files."""
