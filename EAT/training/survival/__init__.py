"""What keeps a training run whole: checkpoints, signals, numbers that are not finite, other processes' deaths.

fairseq's trainer and its training loop have no places of their own for these; :mod:`EAT.training.survival.hooks` wraps
the few functions concerned.
"""
