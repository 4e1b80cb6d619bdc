"""Heads: evidence in, labels and sentences out. They never see pictures or sound."""
