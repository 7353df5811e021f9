"""Views of small pictures, at any size; in: uint8 (N, H, W, 3), out: float32 (N, 3, S, S).

Teacher and student see the same view, each at its own size, the student's sometimes sharpened: it
learns what the teacher says of that view, whatever the view does to the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LEAST_AREA = 0.3  # of a picture that a view shows
ASPECT = 0.3  # the largest logarithm of width over height
MIXED = 0.5  # of the views show a second one through
SHARPENED = 0.6  # of the student's views


@dataclass(frozen=True)
class Views:
    """A part of each picture, perhaps mirrored, in changed colors, perhaps mixed with another's."""

    pictures: Tensor  # float32 (N, 3, H, W)
    transforms: Tensor  # float32 (N, 2, 3), as of affine_grid
    shares: Tensor  # float32 (N, 1, 1, 1), of the other picture
    others: Tensor  # int64 (N,)

    @classmethod
    def drawn(cls, pictures: Tensor, random: torch.Generator) -> Views:
        """Return random views of uint8 (N, H, W, 3)."""
        count = len(pictures)
        changed = _recolored(pictures.permute(0, 3, 1, 2).float(), random)
        transforms = _transforms(count, random)
        shares = _uniform(count, 0.0, 0.5, random)
        shares = shares * (_uniform(count, 0.0, 1.0, random) < MIXED)
        others = torch.randperm(count, generator=random)
        return cls(changed, transforms, shares[:, None, None, None], others)

    def at(self, side: int) -> Tensor:
        """Return them at a size, float32 (N, 3, side, side)."""
        size = [len(self.pictures), 3, side, side]
        grid = functional.affine_grid(self.transforms, size, align_corners=False)
        seen = functional.grid_sample(
            self.pictures, grid, mode="bicubic", padding_mode="reflection", align_corners=False
        ).clamp(0.0, 255.0)
        return seen + self.shares * (seen[self.others] - seen)


def sharpened(views: Tensor, random: torch.Generator) -> Tensor:
    """Return views, some of them sharpened: enlarged small pictures are softer than photos."""
    count = len(views)
    amount = 2.0 * _uniform(count, 0.0, 1.0, random)
    amount = amount * (_uniform(count, 0.0, 1.0, random) < SHARPENED)
    around = functional.pad(views, (1, 1, 1, 1), mode="replicate")
    soft = functional.avg_pool2d(around, 3, stride=1)
    return (views + amount[:, None, None, None] * (views - soft)).clamp(0.0, 255.0)


def _recolored(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Return pictures of changed contrast, brightness and saturation."""

    def factor(low: float, high: float) -> Tensor:
        return _uniform(len(pictures), low, high, random)[:, None, None, None]

    changed = pictures * factor(0.75, 1.25) + factor(-20.0, 20.0)
    gray = changed.mean(dim=1, keepdim=True)
    return (gray + (changed - gray) * factor(0.5, 1.4)).clamp(0.0, 255.0)


def _transforms(count: int, random: torch.Generator) -> Tensor:
    """Return the rectangles that views show, float32 (count, 2, 3)."""
    area = _uniform(count, LEAST_AREA, 1.0, random)
    aspect = torch.exp(_uniform(count, -ASPECT, ASPECT, random))
    width = (area * aspect).sqrt().clamp(max=1.0)
    height = (area / aspect).sqrt().clamp(max=1.0)
    transforms = torch.zeros(count, 2, 3)
    transforms[:, 0, 2] = _uniform(count, -1.0, 1.0, random) * (1.0 - width)
    transforms[:, 1, 2] = _uniform(count, -1.0, 1.0, random) * (1.0 - height)
    mirrored = _uniform(count, 0.0, 1.0, random) < 0.5
    transforms[:, 0, 0] = torch.where(mirrored, -width, width)
    transforms[:, 1, 1] = height
    return transforms


def _uniform(count: int, low: float, high: float, random: torch.Generator) -> Tensor:
    return torch.rand(count, generator=random) * (high - low) + low
