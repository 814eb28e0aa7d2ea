"""`python -m geoclass` is the command `geoclass`."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="geoclass")
