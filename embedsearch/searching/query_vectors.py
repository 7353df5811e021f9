"""Queries to unit vectors; in: queries, out: float32 (D,), or why an image cannot be read.

Images are decoded in a worker process, as in indexing, and embedded by the store's network.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from embedsearch.core.config import DecodeLimits
from embedsearch.core.errors import IncompatibleStore, UnreadableImage, UsageError
from embedsearch.core.microbatch import MicroBatcher
from embedsearch.core.model_spec import ModelSpec
from embedsearch.core.paths import local_path
from embedsearch.core.records import Box, ImageLocation, Reason, StoredPlace, check_unit_rows
from embedsearch.core.scores import BOTH, WORDS
from embedsearch.core.session import Session
from embedsearch.images.decode.shared import Decoded, ImageFile, SharedDecoder
from embedsearch.images.originals import Originals
from embedsearch.images.temporary import TemporaryImages
from embedsearch.network.runtime import PixelExtractor, load_extractor
from embedsearch.searching.queries import (
    UNLIKE_WEIGHT,
    Crop,
    Inside,
    Key,
    Mix,
    Query,
    Sought,
    Text,
    Vector,
)

if TYPE_CHECKING:
    from embedsearch.network.text.encoder import TextEncoder

IMAGES_AT_ONCE = 32  # decoded and embedded together
# The weight of a neighbor in an expanded query is its score to this power: Radenović, Tolias and
# Chum, "Fine-tuning CNN image retrieval with no human annotation" (2018).
_EXPAND_ALPHA = 3.0
_NOT_FINITE = "the network returned no finite vector for the image"

_Outcome: TypeAlias = "Vector | UnreadableImage"
_File: TypeAlias = "bytes | Inside | ImageFile"


class Stored(Protocol):
    """Looks up images of a store by their keys or rows."""

    def word_columns(self) -> Sequence[str]:
        """Return the columns whose words are found."""

    def vector(self, image: str | int) -> Vector:
        """Return a measured vector, float32 (D,). Raises ImageNotFound."""

    def plain_vector(self, image: str | int) -> Vector:
        """Return a unit vector of the network, float32 (D,). Raises ImageNotFound."""

    def measured(self, vector: Vector) -> Vector:
        """Return a unit vector, float32 (D,), measured from the center of the store."""

    def plain(self, measured: Vector) -> Vector:
        """Return the unit vector, float32 (D,), that a measured one, float32 (D,), is of."""

    def place(self, image: str | int) -> StoredPlace:
        """Return where an image was when it was indexed. Raises ImageNotFound."""


class QueryEmbedder:
    """Turns queries into vectors; one set of workers and one network serve all threads.

    Concurrent queries of several threads are decoded, and then embedded, in one batch.
    """

    def __init__(
        self, spec: ModelSpec, limits: DecodeLimits, device: str, precision: str, session: Session
    ) -> None:
        self.spec = spec
        self._limits = limits
        self._device = device
        self._precision = precision
        self._session = session
        self._loading = threading.Lock()
        self._reading = threading.Lock()  # of texts, one at a time; images go on meanwhile
        self._extractor: PixelExtractor | None = None
        self._texts: TextEncoder | None = None
        self._decoder = SharedDecoder(
            spec.input_side,
            limits,
            max_files=IMAGES_AT_ONCE,
            framing=spec.framing,
            meanwhile=lambda: self._network(),
        )
        self._temporary = TemporaryImages()
        self._originals = Originals(limits.max_bytes)
        self._embed_together = MicroBatcher(self._embed, IMAGES_AT_ONCE)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make a copy, which loads the network and starts its own workers."""
        return _copy, (self.spec, self._limits, self._device, self._precision)

    def prepare(self) -> None:
        """Load the network in the background: an image will soon be embedded."""
        threading.Thread(target=self._load_ahead, name="embedsearch-network", daemon=True).start()

    def _load_ahead(self) -> None:
        with contextlib.suppress(Exception):  # the query meets it again, and says so
            self._network()

    def fits(self, spec: ModelSpec, limits: DecodeLimits) -> bool:
        """Return whether it embeds as a generation with this spec and limits needs it."""
        return (self.spec, self._limits) == (spec, limits)

    def close(self) -> None:
        """Release processes and memory."""
        self._decoder.close()
        self._temporary.close()
        self._originals.close()
        with self._loading:
            self._extractor = None
        with self._reading:
            self._texts = None

    def sought(
        self, queries: Sequence[Query], stored: Stored, *, by: str = BOTH
    ) -> list[Sought | UnreadableImage]:
        """Return each query with its measured vector, or why an image has none.

        A text has a vector where the model reads texts, unless only words count (`by`). Raises
        UsageError for an invalid query.
        """
        mixes = [_parts(query) for query in queries]
        singles = [part for mix in mixes for part in (*mix.like, *mix.unlike)]
        flat = iter(self._singles(singles, stored))
        found: list[Sought | UnreadableImage] = []
        for mix in mixes:
            like, unlike = [next(flat) for _ in mix.like], [next(flat) for _ in mix.unlike]
            text = None if mix.text is None else mix.text.text
            reads = text is not None and not like
            if text is not None and self.spec.takes_texts and by != WORDS:
                like.append(stored.measured(self._read(text, stored.word_columns())))
            vector = _mixed(like, unlike) if like else None
            if isinstance(vector, UnreadableImage):
                found.append(vector)
            else:
                found.append(Sought(vector, text, reads=reads))
        return found

    def matrix(self, queries: Sequence[Query], stored: Stored) -> npt.NDArray[np.float32]:
        """Return unit vectors of the network, float32 (Q, D), measured from nothing.

        A mixture is made of measured ones, as when it is searched. Raises UsageError and
        UnreadableImage.
        """
        has_texts = any(_parts(query).text is not None for query in queries)
        if has_texts and not self.spec.takes_texts:
            raise UsageError("a text has no vector here: give images, keys or vectors")
        mixed = iter(self.sought([q for q in queries if isinstance(q, Mix | Text)], stored))
        single = [query for query in queries if not isinstance(query, Mix | Text)]
        made = iter(self._singles(single, _AsMade(stored)))
        vectors = []
        for query in queries:
            found = next(mixed if isinstance(query, Mix | Text) else made)
            if isinstance(found, UnreadableImage):
                raise found
            if isinstance(found, Sought):
                assert found.vector is not None, "it is of images"
                found = stored.plain(found.vector)
            vectors.append(found)
        return np.array(vectors, dtype=np.float32).reshape(len(queries), self.spec.dim)

    def _singles(self, queries: Sequence[Any], stored: Stored) -> list[_Outcome]:
        """Return the measured vector of each query; none is a mixture."""
        found: dict[int, _Outcome] = {}
        pixels: dict[int, npt.NDArray[np.uint8]] = {}
        files: dict[int, tuple[_File, Box | None]] = {}
        for index, query in enumerate(queries):
            image, box = _whole(query)
            if isinstance(query, Key):
                found[index] = stored.vector(query.key)
            elif isinstance(image, np.ndarray) and image.ndim == 1 and box is None:
                found[index] = stored.measured(self._checked(image))
            elif self.spec.is_foreign:
                raise IncompatibleStore(
                    f"the vectors of this store were made elsewhere, by {self.spec.name}: "
                    "query with a key or a vector"
                )
            elif isinstance(image, bytes | Inside):
                files[index] = image, box
            elif isinstance(image, Key | str | os.PathLike):
                name = str(image) if isinstance(image, Key) else local_path(image)
                try:
                    location = (
                        self._original(stored.place(image.key))
                        if isinstance(image, Key)
                        else self._originals.at(name)
                    )
                    files[index] = ImageFile(location, name, box), box
                except UnreadableImage as error:
                    found[index] = error
            else:
                try:
                    pixels[index] = _square(image, self.spec, box)
                except UnreadableImage as error:
                    found[index] = error
        for index, outcome in zip(files, self._decoded([*files.values()]), strict=True):
            if isinstance(outcome, UnreadableImage):
                found[index] = outcome
            else:
                pixels[index] = outcome.pixels
        if pixels:
            embedded = self._embed_together([*pixels.values()])
            measured = [_from_center(vector, stored) for vector in embedded]
            found |= dict(zip(pixels, measured, strict=True))
        return [found[index] for index in range(len(queries))]

    def _original(self, stored: StoredPlace) -> ImageLocation:
        return self._originals.inside(stored.root, stored.key, stored.digest)

    def _decoded(
        self, images: Sequence[tuple[_File, Box | None]]
    ) -> list[Decoded | UnreadableImage]:
        """Return the decoded images of files, or why they cannot be read."""
        with self._temporary.of([i for i, _ in images if isinstance(i, bytes)]) as paths:
            temporary = iter(paths)
            return self._decoder([_file(image, box, temporary) for image, box in images])

    def _embed(self, pixels: list[npt.NDArray[np.uint8]]) -> list[_Outcome]:
        """Return the embedding of each image, uint8 (S, S, 3)."""
        vectors = self._network()(np.stack(pixels))
        return [
            vector if np.isfinite(vector).all() else UnreadableImage(_NOT_FINITE, Reason.NOT_FINITE)
            for vector in vectors
        ]

    def _read(self, text: str, columns: Sequence[str]) -> Vector:
        """Return the unit vector of a text, float32 (D,). Raises UsageError."""
        from embedsearch.network.text.encoder import TextEncoder
        from embedsearch.searching.words.terms import excludes, plain_text

        if not (plain := plain_text(text, columns)):
            problem = "only leaves out: add a word" if excludes(text) else "has no word"
            shown = " ".join(text.split())[:80]
            raise UsageError(f"the text {shown!r} {problem} to look for", "text")
        with self._reading:
            if self._texts is None:
                self._texts = TextEncoder(self.spec, self._session)
            (vector,) = self._texts([plain])
        if not np.isfinite(vector).all():
            raise UsageError("the network returned no finite vector for the text", "text")
        return np.asarray(vector, np.float32)

    def _network(self) -> PixelExtractor:
        with self._loading:
            if self._extractor is None:
                self._extractor = load_extractor(
                    self.spec, self._device, self._precision, self._session
                )
            return self._extractor

    def _checked(self, query: npt.NDArray[Any]) -> Vector:
        if query.dtype.kind not in "fiu":
            raise UsageError(f"a query vector holds real numbers, not {query.dtype}")
        with np.errstate(over="ignore"):  # what float32 does not hold has no length of 1
            vector: Vector = np.asarray(query, dtype=np.float32)
        if vector.shape != (self.spec.dim,):
            raise UsageError(f"a query vector has {self.spec.dim} components, not {vector.size}")
        try:
            check_unit_rows(vector.reshape(1, -1))
        except ValueError as error:
            raise UsageError(f"a query vector has length 1: {error}") from error
        return vector


class _AsMade:
    """A store of which vectors are wanted as the network made them."""

    def __init__(self, stored: Stored) -> None:
        self.vector = self.plain_vector = stored.plain_vector
        self.place = stored.place
        self.word_columns = stored.word_columns

    def measured(self, vector: Vector) -> Vector:
        return vector

    plain = measured


def drawn_towards(
    query: Vector, scores: npt.NDArray[np.float32], vectors: npt.NDArray[Any]
) -> Vector:
    """Return a unit query, float32 (D,), expanded by its nearest rows, (n, D), by score."""
    weights = np.clip(scores.astype(np.float64), 0.0, 1.0) ** _EXPAND_ALPHA
    total = query.astype(np.float64) + weights @ vectors.astype(np.float64)
    unit: Vector = (total / np.linalg.norm(total)).astype(np.float32)
    return unit


def _from_center(outcome: _Outcome, stored: Stored) -> _Outcome:
    return outcome if isinstance(outcome, UnreadableImage) else stored.measured(outcome)


def _file(image: _File, box: Box | None, temporary: Iterator[str]) -> ImageFile:
    """Return the file for a worker process; for bytes, the next path of `temporary`."""
    if isinstance(image, ImageFile):
        return image
    if isinstance(image, bytes):
        return ImageFile.at(next(temporary), "the image given", box)
    name = os.path.join(image.folder, image.path)
    return ImageFile(ImageLocation(image.folder, image.path), name, box)


def _copy(spec: ModelSpec, limits: DecodeLimits, device: str, precision: str) -> QueryEmbedder:
    return QueryEmbedder(spec, limits, device, precision, Session())  # a notice is for one process


def _parts(query: Query) -> Mix:
    if isinstance(query, Text):
        return Mix([], text=query)
    return query if isinstance(query, Mix) else Mix([query])


def _mixed(like: list[_Outcome], unlike: list[_Outcome]) -> _Outcome:
    """Return the vector of a mixture, or the first failure among its parts."""
    for outcome in (*like, *unlike):
        if isinstance(outcome, UnreadableImage):
            return outcome
    if len(like) == 1 and not unlike:
        return like[0]
    total = np.mean(np.array(like, np.float64), axis=0)
    if unlike:
        total = total - UNLIKE_WEIGHT * np.mean(np.array(unlike, np.float64), axis=0)
    if (length := float(np.linalg.norm(total))) < 1e-6:
        raise UsageError("the like and unlike images cancel each other out")
    vector: Vector = (total / length).astype(np.float32)
    return vector


def _whole(query: Any) -> tuple[Any, Box | None]:
    """Return the image of a query, and the part of it to use."""
    if isinstance(query, Crop):
        return query.image, Box(int(query.x), int(query.y), int(query.width), int(query.height))
    return query, None


def _square(image: Any, spec: ModelSpec, box: Box | None) -> npt.NDArray[np.uint8]:
    """Return a PIL image or a uint8 array as the pixels that the network sees."""
    from PIL import Image

    from embedsearch.images.decode.image import DecodeError, square

    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UsageError(
                f"a query array is uint8 (H, W, 3) or a unit vector, not {image.dtype} "
                f"{image.shape}"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise UsageError(f"a query is a path, bytes, an image or an array, not {type(image)}")
    if not image.width or not image.height:
        raise UsageError("a query image has no pixels")
    try:
        return square(image, spec.input_side, spec.framing, box)
    except DecodeError as error:
        raise UsageError(error.detail) from error
    except MemoryError:
        raise
    except Exception as error:  # a lazy image is read here, and raises whatever its decoder does
        message = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(
            f"the image given cannot be read: {message}", Reason.CORRUPT
        ) from error
