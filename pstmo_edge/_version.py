"""The version, written here alone: the wheel's metadata and the native library read it from this file."""

__version__ = "0.1.0"
