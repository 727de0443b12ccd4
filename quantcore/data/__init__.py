"""Images with their labels: reading, letterbox, batches."""
