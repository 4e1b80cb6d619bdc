"""`python -m jobs` is the command `reeltable`."""

from jobs.cli import main

if __name__ == "__main__":
    main()
