"""Small videos whose frames tell their number by their brightness."""

from fractions import Fraction

import av
import numpy as np


def write_video(path, times, size=(64, 48), codec="mpeg4", container_format=None):
    """A video with frames at the given times (seconds); frame i < 30 has the grey value 20 + 7 i, darker at the top."""
    width, height = size
    with av.open(path, "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            image = np.full((height, width, 3), 20 + 7 * (number % 30), np.uint8)
            image[: height // 4] //= 2
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
