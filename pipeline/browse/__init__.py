"""A page over the tables of one output: filter, look, listen, compare, take along.

It reads one snapshot and writes nothing. What it shows of a video comes from the file that the rows were made
of, by the video's id; no path ever comes from a request. Ray, torch and `jobs` never enter.
"""
