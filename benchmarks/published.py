"""What others have published, to stand beside what is measured here; never used in its place.

Errors are on Human3.6M with CPN keypoints, Protocol 1, averaged with the mirrored input. Errors and speeds of the
first four: the README of P-STMO's code (ECCV 2022); of the others: VideoPose3D (CVPR 2019, Table 1) and
StridedTransformer (IEEE TMM 2022, with its refinement module). A speed is of one GPU at an
unknown batch size, most likely without mirroring.
"""

from __future__ import annotations

from typing import Any

_GPU = "GeForce GTX 3080 Ti"

# fmt: off
PUBLISHED: dict[tuple[str, int], dict[str, Any]] = {
    ("poseformer", 81): {"mpjpe_mm": 44.3, "fps": 1952, "device": _GPU},
    ("anatomy3d", 243): {"mpjpe_mm": 44.1, "fps": 429, "device": _GPU},
    ("p-stmo-s", 243): {"mpjpe_mm": 43.0, "fps": 3504, "device": _GPU},
    ("p-stmo", 243): {"mpjpe_mm": 42.8, "fps": 3040, "device": _GPU},
    ("videopose3d", 243): {"mpjpe_mm": 46.8, "fps": None, "device": ""},
    ("strided-transformer", 351): {"mpjpe_mm": 43.7, "fps": None, "device": ""},
}
# fmt: on

_SMALL = ("poseformer", "anatomy3d", "p-stmo-s", "p-stmo", "videopose3d", "strided-transformer")
# The models and window lengths of a table, in order.
TABLES: dict[str, tuple[tuple[str, int], ...]] = {
    "seed": tuple(PUBLISHED),
    "equal-27": tuple((name, 27) for name in _SMALL),
}
