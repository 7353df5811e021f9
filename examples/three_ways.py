"""One wish, looked for by words, by a picture and by both, side by side.

    python examples/three_ways.py sample_images/boats/boats_1.jpg "red sails"

The sample images are indexed with their captions, by a network that reads no text: words are found
in captions and paths, and the picture finds what looks like it. A third argument names another
model: with clip-resnet50 the words are compared with the pictures, too.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import embedsearch

HERE = Path(__file__).parent
IMAGES = HERE.parent / "sample_images"
CAPTIONS = HERE / "captions.csv"
HITS = 6


def side_by_side(store: Path, picture: str, words: str) -> str:
    """Return the first hits by words, by the picture, and by both, as columns."""
    with embedsearch.open_store(store) as photos:
        columns = {
            f"words: {words}": photos.query(text=words, by="words", k=HITS),
            f"picture: {Path(picture).name}": photos.query(picture, k=HITS),
            "both": photos.query(picture, text=words, k=HITS),
        }
    cells = [
        [
            name,
            *(f"{hit.key} ({', '.join(hit.matched)})" for hit in hits),
            *[""] * (HITS - len(hits)),
        ]
        for name, hits in columns.items()
    ]
    widths = [max(map(len, column)) + 2 for column in cells]
    rows = zip(*cells, strict=True)
    return "\n".join(
        "".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def main() -> None:
    """Index the sample images, and print the three rankings."""
    if len(sys.argv) not in {3, 4}:
        sys.exit(f"usage: {sys.argv[0]} IMAGE WORDS [MODEL]")
    picture, words, *model = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "three_ways.es")
        try:
            embedsearch.index(
                IMAGES, store=store, model=(model or ["packaged"])[0], metadata=str(CAPTIONS)
            )
            print(side_by_side(store, picture, words))
        except embedsearch.EmbedSearchError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
