"""What a machine can do for EAT, and whether EAT works on it: ``python -m EAT.doctor``."""
