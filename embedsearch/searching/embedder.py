"""Images to vectors without a store; in: images, out: float32 (n, D)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embedsearch.core.arguments import checked
from embedsearch.core.config import DecodeLimits, check_device, check_precision
from embedsearch.core.dropped import close_with
from embedsearch.core.errors import UsageError
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.records import StoredPlace
from embedsearch.core.session import Session
from embedsearch.network.catalog import AUTO
from embedsearch.network.weights import resolve
from embedsearch.searching.queries import Crop, ImageLike, Vector
from embedsearch.searching.query_vectors import QueryEmbedder


class ImageEmbedder:
    """A network without a store. Any number of threads may use it; their calls are batched.

    It can be copied and pickled: a copy has the same settings, and loads its own network.
    """

    @checked
    def __init__(
        self,
        model: str = AUTO,
        *,
        device: str = "cpu",
        precision: str = "auto",
        limits: DecodeLimits | None = None,
        session: Session | None = None,
    ) -> None:
        """Take a model of the catalog or a file of weights, like `index --model`.

        Raises UsageError and WeightsUnavailable. Close it, or use it with `with`; one that is
        dropped is closed soon after.
        """
        check_device(device)
        check_precision(precision)
        session = session or Session()
        limits = limits or DecodeLimits()
        self._embedder = QueryEmbedder(resolve(model, session), limits, device, precision, session)
        close_with(self, self._embedder.close)

    def __enter__(self) -> ImageEmbedder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def spec(self) -> ModelSpec:
        """Return the model; `spec.dim` is D."""
        return self._embedder.spec

    @checked
    def embed(self, images: Sequence[ImageLike | Crop]) -> npt.NDArray[np.float32]:
        """Return the embeddings, float32 (n, D), unit rows. Raises UnreadableImage."""
        if isinstance(images, str | bytes):
            raise UsageError("embed takes a list of images")
        return self._embedder.matrix(images, _NoStore())

    def close(self) -> None:
        """Release processes and memory; a later call opens them again."""
        self._embedder.close()


class _NoStore:
    """A store without images, for queries that need none."""

    def word_columns(self) -> list[str]:
        return []

    def vector(self, image: str | int) -> Vector:
        raise UsageError(f"{image!r} is a key, and there is no store to find it in")

    plain_vector = vector

    def measured(self, vector: Vector) -> Vector:
        return vector

    plain = measured

    def place(self, image: str | int) -> StoredPlace:
        raise UsageError(f"{image!r} is a key, and there is no store to find it in")
