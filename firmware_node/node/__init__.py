"""The device: blocks become an image, the image runs, a notification tells."""
