"""The exceptions that reach a caller, each with the exit code the command line gives it.

A message says what happened, to which file or value, and what to do next; it is one line.
"""


class EmbedSearchError(Exception):
    """Root of every error that embedsearch raises on purpose.

    `fields` are the settings that the message names (`workers`, `max_pixels`): the command line
    shows them as options.
    """

    exit_code = 1

    def __init__(self, message: str, *fields: str) -> None:
        super().__init__(message)
        self.fields = fields


class NothingIndexed(EmbedSearchError):
    """The run finished, but the store holds no image."""


class UnitsMissing(EmbedSearchError):
    """Units of a plan are not done yet; nothing was committed."""


class UnreadableImage(EmbedSearchError):
    """An image given to `query` could not be decoded; `reason` is one of `records.Reason`."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TrainingFailed(EmbedSearchError):
    """Training cannot continue, or made the model worse; no file was written or replaced."""


class UsageError(EmbedSearchError):
    """An argument cannot be used: a missing folder, k below 1, a folder that is not a store."""

    exit_code = 2


class ImageNotFound(UsageError):
    """The store has no single image of that key, path or row."""


class FilterTooSlow(UsageError):
    """A condition took longer than it may."""


class StoreLocked(EmbedSearchError):
    """Another process is writing to the store, or training to the same file."""

    exit_code = 3


class PlanOpen(StoreLocked):
    """A plan of units is open; it must be committed or discarded before other writes."""


class StorageError(EmbedSearchError):
    """Reading or writing a file failed, or the disk is full; the last generation is intact."""

    exit_code = 4


class OverBound(StorageError):
    """A file or a server goes beyond one of `core/bounds.py`; the message names which."""


class WeightsUnavailable(EmbedSearchError):
    """The weights of a model are neither cached nor downloadable, or are not what they claim."""

    exit_code = 4


class MissingLibrary(EmbedSearchError, ImportError):
    """A library that the requested device or feature needs is not installed or does not load."""

    exit_code = 4


class DamagedStore(EmbedSearchError):
    """A file of the store is missing, changed or cut short; no data of it was used."""

    exit_code = 5


class IncompatibleStore(EmbedSearchError):
    """The store was made by a newer embedsearch or with another model than the requested one."""

    exit_code = 6


class StoreNotFound(EmbedSearchError):
    """There is no store, or nothing was ever committed to it."""

    exit_code = 7


class Interrupted(EmbedSearchError):
    """The run was stopped by a signal; the message says what was committed."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
