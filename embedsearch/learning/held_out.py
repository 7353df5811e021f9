"""Evaluation on held-out images; in: features and vectors, out: a Quality."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from embedsearch.learning.labels import LabelColumn, main_of, scale_of
from embedsearch.learning.metrics import Floats, measure_classes
from embedsearch.learning.ranking import Ranking
from embedsearch.learning.reports import Quality


def evaluate_held_out(
    features: Tensor,
    vectors: Tensor,
    held: Sequence[LabelColumn],
    learned: Sequence[LabelColumn],
    heads: Sequence[nn.Module],
) -> Quality:
    """Return recall and mAP of the vectors, and the errors of the heads.

    `features` and `vectors` float32 (n, D); `held` are their true targets; `learned` those of the
    training, which give the scale of numbers; without `heads` only the vectors count.
    """
    shown: dict[str, float] = {}
    skills = []
    for truth, target, head in zip(held, learned, heads, strict=bool(heads)):
        known = torch.from_numpy(truth.known)
        if not known.any():
            continue
        with torch.inference_mode():
            scores = head(features, vectors).cpu()[known]
        values = torch.from_numpy(truth.values)[known]
        if target.classes:
            shown[target.name] = float((scores.argmax(dim=1) == values).float().mean())
        else:
            mean, deviation = scale_of(target)
            error = float((scores[:, 0] * deviation + mean - values).abs().mean())
            shown[target.name] = error
            guess = float((values - mean).abs().mean())
            skills.append(1 - error / max(guess, 1e-12))
    recall, mean_ap = _retrieval(vectors.float().cpu().numpy(), held)
    score = mean_ap if mean_ap is not None else float(np.mean(skills)) if skills else 0.0
    return Quality(recall, mean_ap, shown, score)


def _retrieval(vectors: Floats, held: Sequence[LabelColumn]) -> tuple[float | None, float | None]:
    """Return recall@1 and mAP, leave one out, by the classes of the first target that has any."""
    main = main_of(held)
    if main is None:
        return None, None
    known = np.flatnonzero(main.known)
    values = measure_classes(main.values[known].astype(np.int64), Ranking(vectors[known]))
    if not len(values["mAP"]):
        return None, None
    return float(values["recall@1"].mean()), float(values["mAP"].mean())
