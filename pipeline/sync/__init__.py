"""Frames and samples → clips that agree in time. Knows times, not models."""
