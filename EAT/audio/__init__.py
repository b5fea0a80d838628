"""Recordings to 16 kHz samples: formats and containers, resampling, streams, time-outs. No features here."""
