"""`python -m quantcore`."""

from quantcore.commands.cli import main

if __name__ == "__main__":
    main()
