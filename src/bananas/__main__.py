"""`python -m bananas`: the command line."""

from bananas.cli import main

if __name__ == "__main__":
    main()
