"""fairseq models: the networks of :mod:`EAT.network` under names that configurations can use."""
