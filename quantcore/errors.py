"""Every error that quantcore raises on purpose.

A message names what was wrong, where (file, layer, image) and what to do about it, in one line.
"""

from __future__ import annotations

from quantcore.showing import one_line


class QuantcoreError(Exception):
    """Root of all errors raised by quantcore; the command line prints it and exits with code 2."""

    def __str__(self) -> str:
        """The message on one line, as names of files and layers may hold anything."""
        return one_line(super().__str__())


class CheckpointError(QuantcoreError):
    """A checkpoint file cannot be read, is unsafe, or holds another architecture."""


class ModelError(QuantcoreError):
    """A float graph breaks the rules that every later stage relies on."""


class RewriteError(ModelError):
    """A rewritten graph computes something else than the float graph."""


class DataError(QuantcoreError):
    """Images or annotations are missing, corrupt or inconsistent."""


class PolicyError(QuantcoreError):
    """A calibration policy is malformed or does not fit the model."""


class RangeError(QuantcoreError):
    """A calibrated range is NaN, infinite or not positive."""

    @classmethod
    def not_finite(cls, where: str, nan: bool, image: int) -> RangeError:
        """An activation that holds NaN or, where `nan` is false, infinity; images count from 0."""
        what = "NaN" if nan else "infinite"
        return cls(
            f"{where}: {what} in image {image} (counted from 0 in the order of calibration); check "
            "the weights"
        )


class TableError(QuantcoreError):
    """A calibration table is malformed or belongs to another model."""


class PluginError(QuantcoreError):
    """A plugin is unknown, registered twice, or written for another API version."""


class BackendUnavailable(PluginError):  # noqa: N818 - reads as the state it reports
    """A plugin is registered, but the framework it drives is not installed."""


class CapabilityError(QuantcoreError):
    """A plugin is asked for something that it does not offer."""


class BackendError(QuantcoreError):
    """A framework failed while it materialised, calibrated or simulated a model."""


class ExecutorError(QuantcoreError):
    """Work cannot be done where it was to be done: no such machine, or it was lost."""


class TrainingError(QuantcoreError):
    """A training came to nothing."""


class ParityError(BackendError):
    """A materialised network disagrees with the float graph."""


class EngineError(QuantcoreError):
    """An engine could not build or run a graph."""


class ConfigError(QuantcoreError):
    """The configuration file cannot be read or does not say what it should."""


class OutputError(QuantcoreError):
    """A result cannot be written."""


class UsageError(QuantcoreError):
    """A command was given options that do not fit together."""
