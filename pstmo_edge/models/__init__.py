"""The architectures, by name, and the road that opens weights."""
