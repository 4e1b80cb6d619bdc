"""The command line and all that runs on Ray: maps the library's functions over units of work."""
