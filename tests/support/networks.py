"""Networks with statistics of their own, and pictures to embed with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from embedsearch.core.config import DecodeLimits
from embedsearch.core.model_spec import ModelSpec
from embedsearch.images.decode.pool import DecodePool
from embedsearch.images.sources.folder import FolderScan
from embedsearch.network.openvino_runtime import OpenVinoExtractor
from embedsearch.network.resnet import ResidualBlock, ResNet
from embedsearch.network.torch_runtime import TorchExtractor
from tests.support.jobs import decode_job


def untrained(network: torch.nn.Module) -> torch.nn.Module:
    """Return it in eval mode, with statistics that are not the identity."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)  # timm begins some at 0
    return network.eval()


def blocks_of(network: ResNet, stage: str) -> list[ResidualBlock]:
    """Return the blocks of a stage, in order."""
    blocks = network.get_submodule(stage).children()
    return [block for block in blocks if isinstance(block, ResidualBlock)]


def decoded(folder: Path, spec: ModelSpec, count: int) -> np.ndarray:
    """Return evenly spread pictures of a folder as a model sees them, uint8 (n, S, S, 3)."""
    refs = list(FolderScan(0, str(folder)))
    refs = refs[:: max(1, len(refs) // count)][:count]
    jobs = (decode_job(ref, str(folder)) for ref in refs)
    with DecodePool(spec.input_side, DecodeLimits(), workers=2, framing=spec.framing) as pool:
        return np.concatenate([batch.images.pixels.copy() for batch in pool.run(jobs)])


def embed(extractor: TorchExtractor | OpenVinoExtractor, pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([extractor(pixels[i : i + 32]) for i in range(0, len(pixels), 32)])
