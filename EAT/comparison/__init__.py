"""Recipes against each other: pre-train, freeze, probe; at equal cost, over seeds, with intervals."""
