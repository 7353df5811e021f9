"""The working folder of one training, beside its output; in: the output, out: paths of its files.

It holds the checkpoint and, while they are decoded, the images. The next run removes what a killed
run left, and the folder is removed when the training is done. A folder of that name with other
files in it belongs to someone else and is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from pathlib import Path

from embedsearch.core.errors import StorageError, StoreLocked, UsageError
from embedsearch.core.paths import printable

_OURS = re.compile(r"checkpoint|pixels|tmp-[0-9a-f]{16}-checkpoint")


class TrainingFolder:
    """Locked until its `with` ends; the kernel drops the lock when its process dies."""

    def __init__(self, out: Path) -> None:
        """Lock the folder. Raises UsageError, StorageError, and StoreLocked if another holds it."""
        if out.suffix != ".safetensors":
            raise UsageError(f"out {out}: give a name that ends in .safetensors", "out")
        if out.is_dir():
            raise UsageError(f"out {out} is a folder", "out")
        self.out = out.resolve()
        self.folder = self.out.with_suffix(".training")
        self.checkpoint = self.folder / "checkpoint"
        self.pixels = self.folder / "pixels"
        try:
            self._descriptor = self._locked()
        except BlockingIOError as error:
            message = f"another training is making {out}: give another out"
            raise StoreLocked(message, "out") from error
        except OSError as error:
            message = f"out {out}: {self.folder} cannot be made ({error.strerror or error})"
            raise StorageError(message, "out") from error
        try:
            self._sweep()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> TrainingFolder:
        return self

    def __exit__(self, *_: object) -> None:
        """Unlock the folder, and remove it if it is empty."""
        with contextlib.suppress(OSError):  # it is not empty
            self.folder.rmdir()
        os.close(self._descriptor)

    def _sweep(self) -> None:
        """Remove what a killed run left. Raises UsageError first for any other file."""
        files = list(self.folder.iterdir())
        for file in files:
            if not _OURS.fullmatch(file.name) or file.is_dir():
                raise UsageError(
                    f"{self.folder} would be the folder of this training, and holds "
                    f"{printable(file.name)}: give another out",
                    "out",
                )
        for file in files:
            if file != self.checkpoint:
                file.unlink(missing_ok=True)

    def _locked(self) -> int:
        """Return a locked descriptor of the folder. Raises BlockingIOError, OSError."""
        while True:
            self.folder.mkdir(exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(self.folder)):
                    return descriptor
            except FileNotFoundError:
                pass  # its last holder removed it meanwhile: try again
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
