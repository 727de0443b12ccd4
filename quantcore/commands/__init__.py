"""The commands of the command line, a file for each group; every one is a thin call."""
