"""`python -m poise.cli` is `poise`."""

from poise.cli import main

if __name__ == "__main__":
    main()
