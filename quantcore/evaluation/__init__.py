"""Detections and their score: decoding, NMS, the COCO metric, latency."""
