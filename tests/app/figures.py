"""Pictures and videos of real motion, drawn as a figure that a detector takes for a person.

A body is spheres along its bones, painted nearest first by a depth buffer and shaded by one lamp; the head has a face,
so that front and back look different. Everything comes from 17 joints in Human3.6M order in the camera frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

SKIN, HAIR, SHIRT, SLEEVE, TROUSERS, SHOES = (
    (224, 172, 138), (62, 40, 26), (38, 92, 158), (46, 106, 176), (58, 58, 66), (28, 24, 24),
)  # fmt: skip
EYE, LIPS, WHITE = (30, 24, 22), (170, 82, 80), (240, 240, 240)
LAMP = np.array([-0.35, -0.65, -0.68])  # above, to the left, on the camera's side
HIP, RHIP, RKNEE, RFOOT, LHIP, LKNEE, LFOOT, SPINE, THORAX, NECK, HEAD = range(11)
LSHOULDER, LELBOW, LWRIST, RSHOULDER, RELBOW, RWRIST = range(11, 17)
UPPER, LOWER, THIGH, SHIN = 0.052, 0.040, 0.078, 0.055  # radii in metres


@dataclass(frozen=True)
class Ball:
    """A sphere in the camera frame, in metres."""

    centre: np.ndarray
    radius: float
    colour: tuple[int, int, int]


def rod(start, end, radius, colour, radius_end=None, step=0.35):
    """Balls along a line, close enough to look like one limb."""
    radius_end = radius if radius_end is None else radius_end
    count = max(2, int(np.linalg.norm(end - start) / (min(radius, radius_end) * step)) + 1)
    shares = np.linspace(0, 1, count)
    return [Ball(start + (end - start) * t, radius + (radius_end - radius) * t, colour) for t in shares]


def unit(vector):
    return vector / max(np.linalg.norm(vector), 1e-9)


def trunk(joints):
    """Shirt and trousers: rods from hip to hip and shoulder to shoulder, filled in between."""
    balls = []
    for t in np.linspace(0, 1, 14):
        # Shoulders that lie within the arms, hips a little wider than the joints.
        left = joints[LHIP] * (1 - t) + (joints[LSHOULDER] * 0.88 + joints[RSHOULDER] * 0.12) * t
        right = joints[RHIP] * (1 - t) + (joints[RSHOULDER] * 0.88 + joints[LSHOULDER] * 0.12) * t
        middle = (left + right) / 2
        bend = np.interp(t, [0, 0.5, 1], [0, 1, 0])[..., None] * (joints[SPINE] - (joints[HIP] + joints[THORAX]) / 2)
        colour = TROUSERS if t < 0.15 else SHIRT
        width = np.interp(t, [0, 0.45, 1], [1.15, 1.0, 1.0])
        radius = np.interp(t, [0, 0.4, 0.8, 1], [0.105, 0.10, 0.105, 0.075])
        ends = [middle + (side - middle) * width + bend for side in (left, right)]
        balls += rod(*ends, radius, colour)
    return balls


def facing(joints):
    """The way the chest looks, a unit vector."""
    across = joints[LSHOULDER] - joints[RSHOULDER]
    up = joints[THORAX] - joints[HIP]
    return unit(np.cross(across, up))


def head(joints):
    """Neck, skull, hair and a face on the side that the chest looks to."""
    up = unit(joints[HEAD] - joints[THORAX])
    front = facing(joints)
    front = unit(front - up * (front @ up))
    side = np.cross(front, up)  # to one ear
    centre = joints[THORAX] + (joints[HEAD] - joints[THORAX]) * 0.72 + front * 0.03

    def at(forward, upward, sideways):
        return centre + front * forward + up * upward + side * sideways

    balls = rod(joints[THORAX], centre, 0.055, SKIN)
    balls += [Ball(at(0.005, 0.015, 0), 0.090, SKIN), Ball(at(0.022, -0.045, 0), 0.068, SKIN)]
    balls += [Ball(at(-0.022, 0.030, 0), 0.098, HAIR), Ball(at(-0.035, -0.010, 0), 0.085, HAIR)]
    balls += [Ball(at(0.010, 0.050, 0), 0.085, HAIR)]
    for sign in (-1, 1):
        balls += [Ball(at(0.073, 0.018, 0.034 * sign), 0.0155, WHITE)]
        balls += [Ball(at(0.0815, 0.018, 0.034 * sign), 0.0095, EYE)]
        balls += rod(at(0.084, 0.045, 0.018 * sign), at(0.074, 0.045, 0.052 * sign), 0.006, HAIR)
        balls += rod(at(-0.005, 0.01, 0.09 * sign), at(-0.005, -0.025, 0.086 * sign), 0.015, SKIN)
    balls += rod(at(0.088, 0.012, 0), at(0.103, -0.018, 0), 0.010, SKIN, 0.015)
    balls += rod(at(0.081, -0.055, -0.022), at(0.081, -0.055, 0.022), 0.0075, LIPS)
    return balls


def arms_and_legs(joints):
    """Bare forearms, hands, trousers and shoes that point forward."""
    balls, front = [], facing(joints)
    for shoulder, elbow, wrist in ((LSHOULDER, LELBOW, LWRIST), (RSHOULDER, RELBOW, RWRIST)):
        middle = (joints[shoulder] + joints[elbow]) / 2
        balls += rod(joints[shoulder], middle, 0.062, SLEEVE, UPPER + 0.004)
        balls += rod(middle, joints[elbow], UPPER - 0.004, SKIN, LOWER + 0.002)
        balls += rod(joints[elbow], joints[wrist], LOWER + 0.002, SKIN, 0.030)
        along = unit(joints[wrist] - joints[elbow])
        balls += rod(joints[wrist], joints[wrist] + along * 0.10, 0.034, SKIN, 0.026)
    for hip, knee, foot in ((LHIP, LKNEE, LFOOT), (RHIP, RKNEE, RFOOT)):
        balls += rod(joints[hip], joints[knee], THIGH, TROUSERS, SHIN + 0.008)
        balls += rod(joints[knee], joints[foot], SHIN + 0.006, TROUSERS, 0.045)
        down = unit(joints[foot] - joints[knee])
        toes = unit(front - down * (front @ down))
        heel = joints[foot] + down * 0.035
        balls += rod(heel - toes * 0.04, heel + toes * 0.14, 0.042, SHOES, 0.034)
    return balls


def background(width, height, horizon):
    """A wall that darkens to its sides, and a floor."""
    rows, columns = np.mgrid[:height, :width]
    wall = 205 - 40 * np.abs(columns / width - 0.5)
    floor = 120 + 40 * (rows - horizon) / max(height - horizon, 1)
    shade = np.where(rows < horizon, wall, floor)[..., None]
    tint = np.where((rows < horizon)[..., None], (1.0, 0.98, 0.94), (1.0, 0.9, 0.78))
    return shade * tint


def paint(balls, focal, size, canvas):
    """Paint balls on a canvas (H, W, 3) float, the nearest in front; `focal` in pixels, the axis in the middle."""
    width, height = size
    depth = np.full((height, width), np.inf)
    for ball in sorted(balls, key=lambda each: each.centre[2]):
        x, y, z = ball.centre
        if z < 0.3:
            continue
        radius = max(ball.radius * focal / z, 0.7)
        u, v = x / z * focal + width / 2, y / z * focal + height / 2
        left, right = max(int(u - radius), 0), min(int(u + radius) + 2, width)
        top, bottom = max(int(v - radius), 0), min(int(v + radius) + 2, height)
        if left >= right or top >= bottom:
            continue
        dx = (np.arange(left, right) - u)[None, :] / radius
        dy = (np.arange(top, bottom) - v)[:, None] / radius
        inside = 1 - dx**2 - dy**2
        dz = np.sqrt(np.maximum(inside, 0))
        near = z - dz * ball.radius
        patch = depth[top:bottom, left:right]
        shown = (inside > 0) & (near < patch)
        light = 0.42 + 0.62 * np.maximum(LAMP[0] * dx + LAMP[1] * dy - LAMP[2] * dz, 0)
        patch[shown] = near[shown]
        canvas[top:bottom, left:right][shown] = (light[..., None] * ball.colour)[shown]
    return canvas


def picture(people, focal, size):
    """One picture (H, W, 3) uint8 RGB of people: each (17, 3) joints in the camera frame, in metres."""
    width, height = size
    canvas = background(width, height, horizon=int(height * 0.62))
    balls = [ball for joints in people for part in (trunk, head, arms_and_legs) for ball in part(joints)]
    return np.clip(paint(balls, focal, size, canvas), 0, 255).astype(np.uint8)


FOCAL = 1.145  # image widths, as Human3.6M's cameras have it


def joints_of(sequence, fps=30.0):
    """(N, 17, 3) joints in the camera frame, in metres, of a sequence at another frame rate (the nearest frames)."""
    count = int(len(sequence) / sequence.fps * fps)
    nearest = np.minimum((np.arange(count) / fps * sequence.fps).round().astype(int), len(sequence) - 1)
    return (sequence.poses + sequence.root[:, None])[nearest]


def pixels_of(joints, size):
    """Where `picture` draws joints (..., 3): (..., 2) pixels."""
    return joints[..., :2] / joints[..., 2:] * FOCAL * size[0] + np.array(size) / 2


def film(path, joints, size=(640, 480), timestamps=None, fps=30.0):
    """Write a video of one person, (N, 17, 3); `timestamps` in seconds make it one of a variable frame rate."""
    import av

    times = np.arange(len(joints)) / fps if timestamps is None else timestamps
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=round(fps), options={"preset": "ultrafast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 90000)
        for each, time in zip(joints, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture([each], FOCAL * size[0], size), format="rgb24")
            frame.pts, frame.time_base = round(time * 90000), Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
