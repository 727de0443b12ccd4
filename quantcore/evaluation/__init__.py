"""What networks find and its score: decoding, NMS, tasks and their metrics, latency."""
