"""What a bundle is worth, measured: experiments of a config, accuracy over labelled videos, cards and plots.

Everything below may be asked for answers; nothing below asks this room. Figures come out, never weights.
"""
