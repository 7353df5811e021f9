"""CLIP's parameters by our names; in: a published state, out: both networks' tensors.

The network for pictures gets those of the family, `conv1.0.weight` for `visual.conv1.weight`; that
for texts keeps its names behind TEXT_PREFIX.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from embedsearch.network.resnet import TEXT_PREFIX

VISUAL = "visual."
MARK = "attnpool.positional_embedding"  # of a network for pictures
_TEXT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
# The stem is three convolutions, each with its BatchNorm; the family has the last one outside.
_STEM = {
    **{"conv1": "conv1.0", "bn1": "conv1.1", "conv2": "conv1.3", "bn2": "conv1.4"},
    **{"conv3": "conv1.6", "bn3": "bn1"},
}
# A shortcut pools, convolves and normalizes: there they are -1, 0 and 1.
_SHORTCUT = re.compile(r"(layer\d\.\d+\.downsample)\.([01])\.(.*)")


def clip_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of both networks; without those for texts, of the one."""
    found = {
        _plain(key.removeprefix(VISUAL)): value
        for key, value in state.items()
        if key.startswith(VISUAL)
    }
    found |= {TEXT_PREFIX + key: value for key, value in state.items() if key.startswith(_TEXT)}
    return found


def _plain(name: str) -> str:
    first, _, rest = name.partition(".")
    if first in _STEM:
        return f"{_STEM[first]}.{rest}"
    if (shortcut := _SHORTCUT.fullmatch(name)) is not None:
        return f"{shortcut[1]}.{int(shortcut[2]) + 1}.{shortcut[3]}"
    return name
