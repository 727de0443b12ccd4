"""Where jobs run: processes of this machine, or workers of a cluster."""
