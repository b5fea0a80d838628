"""Everything that is drawn, in one style."""
