"""A camera, a video or an address to 3D poses: python camera.py SOURCE ENGINE [DETECTOR [NAME=VALUE ...]]."""

import sys

import numpy as np

import pstmo_edge as pe
from pstmo_edge.app.detectors import open_detector
from pstmo_edge.app.sources import open_source
from pstmo_edge.mappings import mapping

name, engine_path, *rest = sys.argv[1:]
detector = open_detector(*(rest[:1] or ["mediapipe"]), **dict(option.split("=", 1) for option in rest[1:]))
engine = pe.load_engine(engine_path)
to_engine = mapping(detector.skeleton, engine.manifest.input.skeleton)  # refused where joints would be guessed
source = open_source(name)
stream = None
for frame, _ in source:
    people = to_engine(detector.detect(frame).keypoints)
    person = max(people, key=lambda each: each[:, 2].mean(), default=np.zeros((17, 3)))  # of several, the surest
    stream = stream or engine.stream(frame.image_size, source.fps, lookahead=0)
    result = stream.push(person, frame.timestamp)
    if result is not None:
        head, hand = result.pose[10], result.pose[16]
        trust = next((flag for flag in ("gap", "stale", "degraded") if getattr(result, flag)), "valid")
        print(
            f"{result.timestamp:8.2f} s  {trust:11}  head {head.round(2)} m, right hand {hand.round(2)} m from the hip"
        )
if stream is not None:
    print(f"{stream.counters.received} frames, {stream.counters.delivered} poses", file=sys.stderr)
