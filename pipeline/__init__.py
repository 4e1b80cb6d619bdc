"""reeltable, the library: videos in, rows out, each step a function you can call in a notebook.

Nothing in here knows Ray; the jobs that run these functions over a lake live in `jobs`.
Start reading at `pipeline.understand`.
"""

__version__ = "0.1.0"
