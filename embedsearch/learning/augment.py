"""Random views of images; in: uint8 pixels, out: float pixels.

The random numbers come from a seeded generator on the CPU: a resumed run sees the same views.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from embedsearch.core.errors import MissingLibrary

MIN_AREA = 0.25  # of the image that a view shows (Szegedy et al., CVPR 2015, from 0.08)
ASPECT = 4 / 3  # a view is stretched by at most this
JITTER = 0.4  # brightness, contrast and saturation are changed by at most this share
GRAY = 0.1  # share of views without color


def random_views(pixels: Tensor, side: int, chance: torch.Generator) -> Tensor:
    """Return float32 (B, 3, S, S), 0 to 255, of uint8 (B, T, T, 3) on the CPU.

    Raises MissingLibrary.
    """
    v2 = import_transforms()
    view = v2.Compose(
        [
            v2.RandomResizedCrop(side, scale=(MIN_AREA, 1.0), ratio=(1 / ASPECT, ASPECT)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(JITTER, JITTER, JITTER),
            v2.RandomGrayscale(GRAY),
        ]
    )
    images = pixels.permute(0, 3, 1, 2)
    with torch.random.fork_rng(devices=[]), _one_thread():  # the only generator torchvision takes
        torch.default_generator.manual_seed(int(torch.randint(1 << 62, (1,), generator=chance)))
        return torch.stack([view(image) for image in images]).float()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread: an image is so small that several cost ten times as much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def import_transforms() -> ModuleType:
    """Return torchvision.transforms.v2. Raises MissingLibrary.

    With a torch of another build the import fails with errors of any class.
    """
    try:
        from torchvision.transforms import v2
    except Exception as error:
        message = "training needs torchvision for this torch: pip install 'torchvision>=0.25'"
        raise MissingLibrary(message) from error
    transforms: ModuleType = v2
    return transforms
