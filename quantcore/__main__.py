"""`python -m quantcore`."""

from quantcore.cli import main

if __name__ == "__main__":
    main()
