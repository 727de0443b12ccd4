"""What the author of a plugin implements, and how plugins are found."""
