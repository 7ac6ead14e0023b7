"""What finds people in a picture, one file each, found by name; see `base`."""

from pstmo_edge.app.detectors.base import DETECTORS, Detector, open_detector

__all__ = ["DETECTORS", "Detector", "open_detector"]
