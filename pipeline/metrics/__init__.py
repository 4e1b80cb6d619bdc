"""Measures of what a model says against what people said. Plain Python: neither torch nor media enter."""
