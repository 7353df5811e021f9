"""Text as words, and what a user typed as terms."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from embedsearch.core.errors import UsageError
from embedsearch.searching.words.terms import MAX_TERMS, Term, terms_of
from embedsearch.searching.words.tokens import words_of

COLUMNS = ["path", "camera", "caption", "Product name", "12"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Red SHOES, size 42!", ["red", "shoes", "size", "42"]),
        ("IMG_2041-red.shoes", ["img", "2041", "red", "shoes"]),
        ("Crème brûlée", ["creme", "brulee"]),
        ("Cre\u0300me bru\u0302le\u0301e", ["creme", "brulee"]),
        ("Straße İstanbul ﬁn", ["strasse", "istanbul", "fin"]),
        ("Ёлка Ελλάδα", ["елка", "ελλαδα"]),
        ("東京タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("ﾀﾜｰ ＡＢＣ", ["タ", "ワ", "ー", "abc"]),
        ("사과를", ["사", "과", "를"]),
        ("مُحَمَّد", ["محمد"]),
        ("שָׁלוֹם", ["שלום"]),
        ("हिन्दी", ["हिन्दी"]),
        ("boat🙂sun ❤️", ["boat", "🙂", "sun", "❤"]),
        ("LEGO® a\0b", ["lego", "®", "a", "b"]),
        ("\ud800x", ["x"]),
        ("a" * 99, ["a" * 64]),
        ("  … — \n", []),
        ("", []),
    ],
)
def test_words_are_folded_and_parted(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text())
@settings(max_examples=300)
def test_words_stay_what_they_are(text: str) -> None:
    words = words_of(text)
    assert words_of(" ".join(words)) == words
    assert all(word and not word.isspace() and '"' not in word for word in words)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("red shoes", [Term(("red",)), Term(("shoes",))]),
        ("red RED réd", [Term(("red",))]),
        ('"red shoes" blue', [Term(("red", "shoes")), Term(("blue",))]),
        ("“red shoes”", [Term(("red", "shoes"))]),
        ('"red shoes', [Term(("red", "shoes"))]),
        ("red-shoes", [Term(("red", "shoes"))]),
        ("sho*", [Term(("sho",), is_prefix=True)]),
        ('"red sho"*', [Term(("red", "sho"), is_prefix=True)]),
        ("boat -red", [Term(("boat",)), Term(("red",), is_excluded=True)]),
        ('boat -"red sea"', [Term(("boat",)), Term(("red", "sea"), is_excluded=True)]),
        ("caption:red", [Term(("red",), "caption")]),
        ("Caption:red -path:tmp*", [Term(("red",), "caption"), Term(("tmp",), "path", True, True)]),
        ('caption:"red sea"', [Term(("red", "sea"), "caption")]),
        ("product-name:mug", [Term(("mug",), "Product name")]),
        ("13:30", [Term(("13", "30"))]),
        ("note:red", [Term(("note", "red"))]),
        ("https://a.org/b", [Term(("https", "a", "org", "b"))]),
        ("東京", [Term(("東", "京"))]),
        ("red & shoes !", [Term(("red",)), Term(("shoes",))]),
        ("AND OR NOT", [Term(("and",)), Term(("or",)), Term(("not",))]),
        ("'; DROP TABLE words; --", [Term(("drop",)), Term(("table",)), Term(("words",))]),
        ("NEAR(a b, 2) {c}: ^x", [Term(("near", "a")), Term(("b",)), Term(("2",)), Term(("c",)),
                                  Term(("x",))]),
    ],
)  # fmt: skip
def test_what_is_typed_becomes_terms(text: str, terms: list[Term]) -> None:
    assert terms_of(text, COLUMNS) == terms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("...", "has no word to look for"),
        ('""', "has no word to look for"),
        ("-red", "only leaves out"),
        ("- - -", "has no word to look for"),
        (" ".join(f"w{n}" for n in range(10_000)), f"10,000 different words; at most {MAX_TERMS}"),
    ],
)
def test_a_text_without_a_word_to_look_for_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        terms_of(text, COLUMNS)


@given(st.text(max_size=60))
@settings(max_examples=300)
def test_any_text_is_terms_or_refused(text: str) -> None:
    try:
        terms = terms_of(text, COLUMNS)
    except UsageError:
        return
    assert all(term.words == tuple(words_of(" ".join(term.words))) for term in terms)
