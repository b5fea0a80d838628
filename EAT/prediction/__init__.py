"""Class scores of recordings, and the forms in which people read them."""
