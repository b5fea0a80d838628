"""Pictures of runs and masks: ``python -m EAT.plot``."""
