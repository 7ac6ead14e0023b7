"""Where a person stands: the root's position from a pose, its keypoints and the camera's intrinsics.

A lifter gives joints relative to the root. With X_j + t the joint in the camera frame and (x_j, y_j) its keypoint on
the plane at distance 1, projection says X_j + t_x = x_j (Z_j + t_z), and the same of y: two equations a joint, linear
in the three unknowns t. They are solved by least squares, each weighted by its keypoint's confidence and divided by
its depth, which makes its residual the error of reprojection (as in Hartley & Zisserman, Multiple View Geometry, 2nd
ed., section 4.1). Wrong keypoints do not pull a person away: the start is the least median of squares, and a few rounds
of Tukey's weights follow (Beaton & Tukey 1974).

Distance and size cannot be told apart by one camera: the root is as far off, in per cent, as the pose is too large or
the focal length wrong. `BodyScale` takes the size from a known height.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pstmo_edge.app.root_fit import fit_root
from pstmo_edge.arrays import BoolArray, FloatArray, IntArray
from pstmo_edge.cameras import Camera
from pstmo_edge.errors import DataError, UsageError
from pstmo_edge.skeletons import HUMAN36M, Skeleton, get_skeleton

MIN_JOINTS = 6  # measured ones; three unknowns, and outliers must be a minority
MIN_SPREAD = 4.0  # pixels, root mean square about the mean: a smaller person has no measurable distance
MAX_MISFIT = 0.35  # the median residual over the spread: beyond it pose and keypoints are not of one person
_NAMES = {"LAnkle": "LFoot", "RAnkle": "RFoot", "Pelvis": "Hip"}  # one joint under two names
# The bones that stand on each other in an upright person, of Human3.6M's joints: mean leg, then trunk and head.
_LEGS = ((4, 5), (5, 6), (1, 2), (2, 3))
_TRUNK = ((0, 7), (7, 8), (8, 9), (9, 10))
# Body height over the length of those bones: from ankles to crown, walkers of the bundled training motion stand 1.037
# times that tall (1.022 to 1.051, 10th to 90th percentile; the hip joints lie below the root), and ankles are 0.039 of
# the height above the floor (Drillis & Contini 1966).
HEIGHT_OVER_BONES = 1.037 / (1 - 0.039)
HEIGHTS = (0.5, 2.5)  # metres
_POSES_KEPT = 250  # of a person's, for the size of the body: ten seconds at the model's rate


@dataclass(frozen=True)
class Intrinsics:
    """Focal lengths and centre (fx, fy), (cx, cy) in pixels, and distortion.

    `radial` are k1, k2, k3; `tangential` (2,) multiply r squared in x and in y, and `shear` times their product with
    the point stretches it: 2 in OpenCV's model (Brown-Conrady), 1 in the one that Human3.6M publishes. `known` is False
    where the values are `assumed`.
    """

    focal: tuple[float, float]
    centre: tuple[float, float]
    radial: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tangential: tuple[float, float] = (0.0, 0.0)
    shear: float = 2.0
    known: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no camera (UsageError)."""
        values = (*self.focal, *self.centre, *self.radial, *self.tangential, self.shear)
        if not all(map(math.isfinite, values)) or min(self.focal) <= 0:
            raise UsageError(f"no camera has focal lengths {self.focal} and centre {self.centre}: give pixels")

    @classmethod
    def assumed(cls, image_size: tuple[int, int]) -> Intrinsics:
        """What stands in for unknown intrinsics: a focal length of the longer side, 53 degrees across it.

        Between a webcam (70 degrees: 0.7 of the side) and Human3.6M's cameras (1.15). Distances are as wrong as it is.
        """
        width, height = image_size
        side = float(max(width, height))
        return cls((side, side), (width / 2, height / 2), known=False)

    @classmethod
    def opencv(
        cls, focal: tuple[float, float], centre: tuple[float, float], distortion: Sequence[float] = ()
    ) -> Intrinsics:
        """From OpenCV's calibration: `distortion` is (k1, k2, p1, p2[, k3]); raises UsageError for longer models."""
        if len(distortion) not in (0, 4, 5):
            raise UsageError(
                f"distortion has {len(distortion)} coefficients: give OpenCV's k1, k2, p1, p2, k3, or undistort first"
            )
        k1, k2, p1, p2, k3 = (*map(float, distortion), *[0.0] * (5 - len(distortion)))
        return cls(focal, centre, (k1, k2, k3), (p2, p1))

    @classmethod
    def of(cls, camera: Camera) -> Intrinsics:
        """Those of a camera in Human3.6M's conventions."""
        return cls(camera.focal, camera.centre, camera.radial, camera.tangential, shear=1.0)

    def undistorted(self, pixels: FloatArray) -> FloatArray:
        """Pixels (..., 2) to the plane at distance 1, (..., 2): the inverse of projection, by fixed-point steps."""
        seen = (np.asarray(pixels, np.float64) - self.centre) / self.focal
        plane = seen
        if not any((*self.radial, *self.tangential)):
            return plane
        tangential = np.asarray(self.tangential)
        for _ in range(10):  # each gains about a digit where distortion is a tenth
            r2 = (plane**2).sum(-1, keepdims=True)
            stretch = 1 + r2 * (self.radial[0] + r2 * (self.radial[1] + r2 * self.radial[2]))
            stretch = stretch + self.shear * (tangential * plane).sum(-1, keepdims=True)
            plane = (seen - tangential * r2) / np.maximum(stretch, 0.1)
        return plane


@dataclass(frozen=True)
class World:
    """A world frame for a camera that stands still: z up, y where the camera looks, x to its right.

    `down` (3,) is the direction of gravity in the camera frame (as an accelerometer shows it, of any length), and
    `camera_height` the camera's metres above the floor: the world's origin lies below the camera, on the floor.
    """

    down: tuple[float, float, float] = (0.0, 1.0, 0.0)
    camera_height: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a direction of no length (UsageError)."""
        if not all(map(math.isfinite, (*self.down, self.camera_height))) or not any(self.down):
            raise UsageError(f"gravity is {self.down}: give a direction in the camera frame (x right, y down, z ahead)")

    @classmethod
    def tilted(cls, pitch: float, roll: float = 0.0, camera_height: float = 0.0) -> World:
        """Of a camera that looks `pitch` degrees below the horizon and leans `roll` degrees to its right."""
        p, r = math.radians(pitch), math.radians(roll)
        return cls((math.sin(r) * math.cos(p), math.cos(r) * math.cos(p), math.sin(p)), camera_height)

    @property
    def rotation(self) -> FloatArray:
        """The (3, 3) matrix that turns camera coordinates (as a column) into world coordinates."""
        up = -np.asarray(self.down, np.float64)
        up /= np.linalg.norm(up)
        ahead = np.array([0.0, 0.0, 1.0]) if abs(up[2]) < 0.99 else np.array([0.0, -np.sign(up[2]), 0.0])
        ahead = ahead - (ahead @ up) * up  # of a camera that looks straight down: what its picture's top points to
        ahead /= np.linalg.norm(ahead)
        return np.stack([np.cross(ahead, up), ahead, up])

    def turned(self, pose: FloatArray) -> FloatArray:
        """A root-relative pose (..., 3) of the camera frame in the world's axes."""
        return pose @ self.rotation.T.astype(pose.dtype)

    def position(self, point: FloatArray) -> FloatArray:
        """Where a point (..., 3) of the camera frame is in the world."""
        moved: FloatArray = point @ self.rotation.T + [0.0, 0.0, self.camera_height]
        return moved


@dataclass(frozen=True)
class Placement:
    """Where a person stands.

    `root` (3,) is the root joint in metres: in the camera frame, or in the `World` that the placer was given. `scale`
    is what the pose was multiplied by to have its known height. `residual_px` is the median distance in pixels between
    the measured joints and the pose projected there.
    """

    root: FloatArray
    scale: float
    residual_px: float


class Placer:
    """Places poses of one camera; see the module's text. Has settings and no state.

    `keypoint_skeleton` and `pose_skeleton` name the joint sets of what it will be given: of an engine,
    `manifest.input.skeleton` and `manifest.output.skeleton`. Joints that both have are used. Raises UsageError for
    skeletons that share too few.
    """

    def __init__(
        self,
        intrinsics: Intrinsics,
        world: World | None = None,
        *,
        keypoint_skeleton: str = HUMAN36M.name,
        pose_skeleton: str = HUMAN36M.name,
        min_confidence: float = 0.3,
    ) -> None:
        self.intrinsics = intrinsics
        self.world = world
        self.min_confidence = min_confidence
        self.root = get_skeleton(pose_skeleton).root
        self.seen, self.lifted = shared_joints(get_skeleton(keypoint_skeleton), get_skeleton(pose_skeleton))
        if len(self.seen) < MIN_JOINTS:
            raise UsageError(
                f"{keypoint_skeleton} and {pose_skeleton} share {len(self.seen)} joints: {MIN_JOINTS} are needed"
            )

    def place(self, pose: FloatArray, keypoints: FloatArray, scale: float = 1.0) -> Placement | None:
        """Where the person of a pose (J, 3) in metres is whose keypoints are (K, 2), or (K, 3) with confidence, pixels.

        None where that cannot be told: fewer than MIN_JOINTS measured, a person of a few pixels, one who would be
        behind the camera, or a pose that does not fit the keypoints. Raises DataError for other shapes.
        """
        measured, weights = self._measured(pose, keypoints)
        if int(measured.sum()) < MIN_JOINTS:
            return None
        points = (pose - pose[self.root]).astype(np.float64)[self.lifted][measured] * scale
        pixels = np.asarray(keypoints, np.float64)[self.seen, :2][measured]
        spread = math.sqrt(float(((pixels - pixels.mean(0)) ** 2).sum(-1).mean()))
        if spread < MIN_SPREAD:
            return None
        root, residuals = fit_root(
            points, self.intrinsics.undistorted(pixels), weights[measured], self.intrinsics.focal
        )
        if root is None:
            return None
        residual = float(np.median(residuals))
        if not residual <= MAX_MISFIT * spread:
            return None
        return Placement(root if self.world is None else self.world.position(root), scale, residual)

    def _measured(self, pose: FloatArray, keypoints: FloatArray) -> tuple[BoolArray, FloatArray]:
        """Which of the shared joints can be used, and their weights."""
        if keypoints.ndim != 2 or keypoints.shape[1] not in (2, 3) or pose.ndim != 2 or pose.shape[1] != 3:
            raise DataError(f"a pose {pose.shape} and keypoints {keypoints.shape}: give (J, 3) and (K, 2) or (K, 3)")
        given = np.asarray(keypoints, np.float64)[self.seen]
        weights = given[:, 2] if given.shape[1] == 3 else np.ones(len(given))
        finite = np.isfinite(given).all(-1) & np.isfinite(pose[self.lifted]).all(-1)
        with np.errstate(invalid="ignore"):
            usable: BoolArray = finite & (weights >= self.min_confidence) & (weights > 0)
        return usable, np.minimum(weights, 1.0)


def shared_joints(seen: Skeleton, lifted: Skeleton) -> tuple[IntArray, IntArray]:
    """The numbers of the joints that two joint sets have in common, in each; heads and necks differ between sets."""
    if seen == lifted:
        every = np.arange(seen.num_joints)
        return every, every
    numbers = {_NAMES.get(name, name): number for number, name in enumerate(lifted.joints)}
    loose = {"Head", "Neck", "Spine"}
    pairs = [
        (number, numbers[joint])
        for number, name in enumerate(seen.joints)
        if (joint := _NAMES.get(name, name)) in numbers and joint not in loose
    ]
    one, other = np.array(pairs, int).reshape(-1, 2).T
    return one, other


def standing_height(pose: FloatArray) -> float:
    """How tall a pose's body is, metres, from its bones (Human3.6M joints), whatever it does at the moment.

    Mean leg, trunk, neck and head in one line, times HEIGHT_OVER_BONES.
    """
    pose = pose.astype(np.float64)
    legs = sum(float(np.linalg.norm(pose[one] - pose[other])) for one, other in _LEGS) / 2
    return HEIGHT_OVER_BONES * (legs + sum(float(np.linalg.norm(pose[one] - pose[other])) for one, other in _TRUNK))


class BodyScale:
    """The factor that gives one person's poses a known height; one a person, since it remembers their bones.

    `height` is the person's in metres. A pose's bones tremble, so the median over the last ten seconds counts. Raises
    UsageError for a height that no person has, and DataError where poses are not of Human3.6M's joints.
    """

    def __init__(self, height: float, pose_skeleton: str = HUMAN36M.name) -> None:
        if not HEIGHTS[0] <= height <= HEIGHTS[1]:
            raise UsageError(f"a height of {height:g} m: give metres, from {HEIGHTS[0]} to {HEIGHTS[1]}")
        if pose_skeleton != HUMAN36M.name:
            raise DataError(f"poses are of {pose_skeleton}: a height is known of {HUMAN36M.name} alone")
        self.height = height
        self._seen: deque[float] = deque(maxlen=_POSES_KEPT)

    def update(self, pose: FloatArray) -> float:
        """The factor after one more pose (17, 3) in metres; 1 as long as no pose had a size."""
        tall = standing_height(pose)
        if math.isfinite(tall) and tall > 0:
            self._seen.append(tall)
        return self.height / float(np.median(self._seen)) if self._seen else 1.0
