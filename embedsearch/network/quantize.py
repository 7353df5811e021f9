"""The int8 form of a converted network; runs in the short-lived child of `prepare.py`.

Weights and activations become 8-bit integers by NNCF's post-training quantization, except where
that changes neighbors: everything up to the second stage, the residual additions, and
all after the last block. Measured with real ResNet-50 weights on 2,013 photos: quantizing
everything left a top-10 overlap with fp32 of .75, all but the head .89, this .96.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from embedsearch.network.converted import import_openvino, place_model

# 18 of sample_images/, whole at 128 × 128 px; 300 photos instead of them were no better.
CALIBRATION = Path(__file__).with_name("calibration.npz")
MIN_COSINE = 0.95  # of int8 and fp32, the lowest of the calibration images


def quantize(folder: Path, side: int) -> None:
    """Write `int8.xml` and `int8.bin` beside the model in `folder`.

    Raises ValueError where the int8 vectors are too far from those of fp32.
    """
    ov = import_openvino()  # before NNCF, whose telemetry is switched off the same way
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    core = ov.Core()
    model = core.read_model(folder / "model.xml")
    pixels = calibration_pixels(side)
    pictures = [pixels[index : index + 1] for index in range(len(pixels))]
    whole_range = AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
    )
    quantized = nncf.quantize(
        model,
        nncf.Dataset(pictures),
        subset_size=len(pictures),
        preset=nncf.QuantizationPreset.MIXED,  # the output of a ReLU is not negative
        ignored_scope=nncf.IgnoredScope(names=kept_as_floats(model.get_ordered_ops())),
        advanced_parameters=whole_range,
    )
    cosines = _cosines(core, model, quantized, pictures)
    if cosines.min() < MIN_COSINE:
        raise ValueError(
            f"int8 changes this network's vectors too much: a cosine of {cosines.min():.3f} with "
            f"fp32, and at least {MIN_COSINE} is needed; use another precision"
        )
    place_model(quantized, folder, "int8")


def calibration_pixels(side: int) -> npt.NDArray[np.uint8]:
    """Return the calibration images, uint8 (18, S, S, 3)."""
    with np.load(CALIBRATION, allow_pickle=False) as file:
        pictures = torch.from_numpy(file["pixels"]).permute(0, 3, 1, 2).float()
    scaled = torch.nn.functional.interpolate(pictures, (side, side), mode="bicubic", antialias=True)
    pixels: npt.NDArray[np.uint8] = (
        scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    )
    return pixels


def kept_as_floats(operations: list[Any]) -> list[str]:
    """Return the names of the operations that are not quantized, in order."""
    kinds = [operation.get_type_name() for operation in operations]
    names = [operation.friendly_name for operation in operations]
    second_stage = next(index for index, name in enumerate(names) if ".layer2." in name)
    activations = {"Relu", "PRelu", "Gelu"}
    named = enumerate(zip(kinds, names, strict=True))
    last_block = max(n for n, (kind, name) in named if kind in activations and ".se." not in name)
    kept = []
    for index, (kind, name) in enumerate(zip(kinds, names, strict=True)):
        early = index < second_stage and kind == "Convolution"
        residual = kind == "Add" and "aten::add" in name
        head = index >= last_block and kind not in {"Constant", "Convert", "Result"}
        if early or residual or head:
            kept.append(name)
    return kept


def _cosines(
    core: Any, exact: Any, quantized: Any, pictures: list[npt.NDArray[np.uint8]]
) -> npt.NDArray[np.float64]:
    """Return the cosine of both networks' vectors for each image."""
    vectors = []
    for model in (exact, quantized):
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        vectors.append(np.concatenate([compiled(picture)[0] for picture in pictures]))
    products: npt.NDArray[np.float64] = np.einsum("nd,nd->n", *vectors, dtype=np.float64)
    return products
