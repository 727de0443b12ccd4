"""Images with their labels: read, checked, and made into network inputs."""

import os

#: Pixels of an image; decoded, three bytes each.
MOST_PIXELS = 1 << 27

# OpenCV reads it when it is loaded: a bound for the formats whose headers are not read here.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MOST_PIXELS))
