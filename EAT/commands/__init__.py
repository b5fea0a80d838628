"""The command lines: arguments, words and exit statuses. What they do lives in the rooms below."""
