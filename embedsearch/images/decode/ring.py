"""Shared memory through which pixels leave the decoding processes; nothing is copied on the way.

The ring is cut into regions of a batch each. A region is free once nobody holds it.
"""

from __future__ import annotations

import mmap
import os
from collections import deque

import numpy as np
import numpy.typing as npt

from embedsearch.core.system import anonymous_file


class Ring:
    """`pixels` uint8 (slots, S, S, 3); `descriptor` is what a child process maps."""

    def __init__(self, regions: int, batch: int, side: int) -> None:
        self.slots = regions * batch
        self.batch = batch
        self.descriptor = anonymous_file(self.slots * side * side * 3)
        self.pixels = map_pixels(self.descriptor, self.slots, side)
        self._free = deque(range(regions))
        self._holds = [0] * regions

    def close(self) -> None:
        """Give the memory back once the last view of it is gone."""
        os.close(self.descriptor)

    @property
    def has_free(self) -> bool:
        """Return whether a region can be taken."""
        return bool(self._free)

    @property
    def next_region(self) -> int:
        """Return the region that `take` will return."""
        return self._free[0]

    def take(self) -> int:
        """Return a free region, held once."""
        region = self._free.popleft()
        self._holds[region] = 1
        return region

    def hold(self, region: int) -> None:
        """Hold a region once more."""
        self._holds[region] += 1

    def let_go(self, region: int) -> None:
        """Hold a region once less."""
        self._holds[region] -= 1
        if not self._holds[region]:
            self._free.append(region)

    def reset(self) -> None:
        """Make every region free: the next run begins."""
        self._free = deque(range(len(self._holds)))
        self._holds = [0] * len(self._holds)


def map_pixels(descriptor: int, slots: int, side: int) -> npt.NDArray[np.uint8]:
    """Return the ring's memory as uint8 (slots, S, S, 3)."""
    memory = mmap.mmap(descriptor, slots * side * side * 3)
    return np.frombuffer(memory, dtype=np.uint8).reshape(slots, side, side, 3)
