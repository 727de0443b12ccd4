"""COCO-format data: reading, letterbox, batches."""
