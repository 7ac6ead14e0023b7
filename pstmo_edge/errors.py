"""The errors a user can cause, each of them one sentence that names the value, the limit and the way out."""


class PstmoEdgeError(Exception):
    """Base of every error raised on purpose; the command line prints it on one line and leaves with `exit_status`."""

    exit_status = 1


class UsageError(PstmoEdgeError):
    """A request that can never work as written: an unknown name, a wrong combination, an existing output folder."""

    exit_status = 2


class DataError(PstmoEdgeError):
    """Keypoints, motion or a dataset file that cannot be used."""


class CheckpointError(PstmoEdgeError):
    """A weights file that cannot be opened or does not fit the model."""


class BundleError(PstmoEdgeError):
    """A bundle that is damaged, incomplete, or made by a newer version."""


class BackendError(PstmoEdgeError):
    """A runtime that is not installed, or refuses the model."""


class AccuracyError(PstmoEdgeError):
    """A build whose error in millimetres exceeds the limit that was asked for."""
