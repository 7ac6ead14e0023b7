"""What shows a running app, one file each, found by name or by a file's suffix; see `base`."""

from pstmo_edge.app.viewers.base import VIEWERS, Viewer, ViewerSettings, check, open_viewer

__all__ = ["VIEWERS", "Viewer", "ViewerSettings", "check", "open_viewer"]
