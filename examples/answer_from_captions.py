"""A question about a picture, answered from what is known of pictures like it.

    python examples/answer_from_captions.py sample_images/clocks/clocks_3.png "What is this?"

Retrieval-augmented generation in three steps: the picture's neighbors are found, their captions
become the context of a prompt, and a language model answers from that. It runs offline: the model
here is a stand-in that no one should mistake for one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import embedsearch

HERE = Path(__file__).parent
IMAGES = HERE.parent / "sample_images"
CAPTIONS = HERE / "captions.csv"
NEIGHBORS = 4

PROMPT = """Answer the question about a picture. You do not see it, but pictures that look like it,
nearest first, with the cosine of their similarity, have these captions:

{context}

Question: {question}
Answer:"""


class StandInModel:
    """Not a language model: repeats the first caption, so that the example runs offline.

    For a real one, with `pip install langchain-openai` and a key, put in its place:

        from langchain_openai import ChatOpenAI
        model = ChatOpenAI(model="gpt-4o-mini")
        answer = model.invoke(prompt).content
    """

    def invoke(self, prompt: str) -> str:
        """Return the caption of the nearest picture."""
        first = next(line for line in prompt.splitlines() if line.startswith("1. "))
        return f"(stand-in) Probably something like: {first.partition(') ')[2]}"


def build_store(store: str) -> None:
    """Index the sample images with their captions; done again, it embeds nothing."""
    embedsearch.index(IMAGES, store=store, model="packaged", metadata=str(CAPTIONS))


def build_prompt(store: str, image: str, question: str) -> str:
    """Return the prompt: the captions of the picture's neighbors, and the question."""
    with embedsearch.open_store(store) as pictures:
        # One more than is needed: the picture itself may be in the store.
        hits = pictures.query(image, k=NEIGHBORS + 1, where="caption is not null")
    others = [hit for hit in hits if Path(hit.full_path) != Path(image).resolve()][:NEIGHBORS]
    context = "\n".join(
        f"{number}. ({hit.score:.2f}) {hit.metadata['caption']}"
        for number, hit in enumerate(others, start=1)
    )
    return PROMPT.format(context=context, question=question)


def main() -> None:
    """Index, retrieve, ask."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    image, question = sys.argv[1:]
    build_store("example.es")
    prompt = build_prompt("example.es", image, question)
    print(prompt, StandInModel().invoke(prompt))


if __name__ == "__main__":
    main()
