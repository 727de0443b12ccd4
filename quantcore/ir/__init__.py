"""The backend-neutral float model: its graph and layers, edits of them, what a file says."""
