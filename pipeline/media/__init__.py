"""Bytes → frames and samples, each with its time. Nothing here knows models or tables."""
