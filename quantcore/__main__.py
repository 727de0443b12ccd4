"""`quantcore` and `python -m quantcore`: listens for signals, then imports the command line."""

from __future__ import annotations

from quantcore.runtime.signals import ending, held


def main() -> None:
    """Runs the command line; its imports take a second, in which it can be stopped too."""
    with ending(last=True):
        # An exception in the middle of a native module's first import can crash the process.
        with held():
            from quantcore.commands.cli import main as run
        run()


if __name__ == "__main__":
    main()
