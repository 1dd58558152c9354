"""What people run: images, keys, service requests, decoding."""
