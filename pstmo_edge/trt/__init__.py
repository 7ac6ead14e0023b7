"""TensorRT 10.3 to 11.x: build plans, the one adapter to its Python API, device buffers, authenticated engines."""
