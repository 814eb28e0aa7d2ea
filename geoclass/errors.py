"""The errors geoclass raises on purpose.

Each message is one line that says what is wrong, where, and the remedy. The command line prints it and
exits with 2; nothing else in the package exits or prints.
"""


class GeoclassError(Exception):
    """Bad use or bad input. The message is one line: what, where, remedy."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class SceneError(GeoclassError):
    """A scene cannot be opened, described or read."""


class GridError(GeoclassError):
    """A grid, tile index or area of interest is impossible or does not fit the scene."""


class BundleError(GeoclassError):
    """A model bundle is not one, is damaged, or cannot be built here."""


class ConfigError(GeoclassError):
    """A class scheme or sensor description is unknown or wrong."""


class OutputError(GeoclassError):
    """An output cannot be written, or would replace one that is there."""


class UnfitError(GeoclassError):
    """The doctor found the scene, the bundle or the machine unfit for the run."""


class EvaluationError(GeoclassError):
    """Labels, tiles or models that cannot be compared."""


class DatasetError(GeoclassError):
    """Labels or labelled tiles that cannot be used."""


class ChangeError(GeoclassError):
    """Results that cannot be compared over time, or a sample that cannot carry an estimate."""


class ClusterError(GeoclassError):
    """A Dask cluster cannot be reached, was lost, or has workers that are not fit for the run."""


class ServiceError(GeoclassError):
    """A service cannot be started or reached, or refused what was asked of it."""


class DatabaseError(GeoclassError):
    """A database cannot be reached, refuses, or does not hold what is asked of it."""
