"""`python -m workers`: the command line, for processes that start others."""

from workers.cli import main

if __name__ == "__main__":
    main()
