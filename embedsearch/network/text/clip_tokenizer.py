"""The tokenizer of CLIP (Radford et al., ICML 2021); out: one of the library `tokenizers`.

Byte pairs of lower-case words, as in GPT-2. The merges are the first 48,894 of the published list
(`bpe_simple_vocab_16e6.txt.gz` of github.com/openai/CLIP, MIT).
"""

from __future__ import annotations

import gzip
from importlib.resources import files
from typing import Any

MERGES = "clip_merges.txt.gz"
LENGTH, PAD_ID = 77, 0
_START, _END, _WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def clip_tokenizer() -> Any:
    """Return the tokenizer: a start, the pieces of a text, an end."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    packed = (files("embedsearch.network") / "packaged" / MERGES).read_bytes()
    lines = gzip.decompress(packed).decode().split("\n")
    merges = [(first, second) for first, second in (line.split(" ") for line in lines)]
    letters = _letters()
    pieces = [*letters, *(letter + _WORD_END for letter in letters), *map("".join, merges)]
    vocabulary = {piece: number for number, piece in enumerate([*pieces, _START, _END])}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=_END, end_of_word_suffix=_WORD_END)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, normalized=False, special=True) for token in (_START, _END)]
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}",
        special_tokens=[(token, vocabulary[token]) for token in (_START, _END)],
    )
    return tokenizer


def _letters() -> list[str]:
    """Return a visible character for each byte, in the order of GPT-2's vocabulary."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [*map(chr, shown), *(chr(256 + number) for number in range(len(hidden)))]
