"""The encoding of a table of columns is found, and what names images; names keep their bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedsearch.core.errors import UsageError
from embedsearch.core.formulas import guarded, unguarded
from embedsearch.exchange.import_vectors import import_vectors
from embedsearch.images.tables.table import UserTable, read_user_table


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_separator_and_encoding_are_found(tmp_path: Path, separator: str, encoding: str) -> None:
    text = "path,größe,text\nö.jpg,1,Café é\nb.jpg,2,plain\n".replace(",", separator)
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    found = read_user_table(tmp_path / "t.csv", frozenset())
    assert found.names == ["ö.jpg", "b.jpg"]
    assert found.columns.to_pydict() == {"größe": [1, 2], "text": ["Café é", "plain"]}
    assert found.encoding == ("Windows-1252" if encoding == "cp1252" else "")


def test_letters_split_between_two_blocks_are_not_taken_for_another_encoding(
    tmp_path: Path,
) -> None:
    text = "path,t\na.jpg," + "x" * ((1 << 20) - 14) + "é" + "x" * (1 << 20) + "\n"
    assert text.encode()[(1 << 20) - 1 : (1 << 20) + 1] == "é".encode()
    (tmp_path / "t.csv").write_text(text)
    assert read_user_table(tmp_path / "t.csv", frozenset()).encoding == ""


def test_names_of_vectors_are_not_guessed(tmp_path: Path) -> None:
    """In a list of paths a byte is part of a name: a guess would take columns to other files."""
    np.save(tmp_path / "v.npy", np.eye(2, 8, dtype=np.float32))
    table = "path,caption\nö.jpg,Café\nb.jpg,plain\n".encode("cp1252")
    (tmp_path / "names.csv").write_bytes(table)
    vectors, names = tmp_path / "v.npy", tmp_path / "names.csv"
    with pytest.raises(UsageError, match="is not UTF-8"):
        import_vectors(vectors, paths=names, model="mine", store=tmp_path / "s.es", root=tmp_path)


def table_of(folder: Path, content: str) -> UserTable:
    (folder / "t.csv").write_text(content)
    return read_user_table(folder / "t.csv", frozenset())


def test_the_table_of_exiftool_names_images_by_their_paths(tmp_path: Path) -> None:
    found = table_of(tmp_path, "SourceFile,FileName,Rating\n./a/1.jpg,1.jpg,5\n")
    assert (found.names, found.columns.column_names) == (["./a/1.jpg"], ["FileName", "Rating"])


def test_nothing_but_blank_lines_is_an_empty_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is empty"):
        table_of(tmp_path, "\n\n \n")


def test_what_is_no_formula_comes_back(tmp_path: Path) -> None:
    texts = ["=1+1", "-alt", "'-alt", "''=x", "'quoted'", "@home", "it's"]
    assert [unguarded(guarded(text)) for text in texts] == texts
    assert not any(guarded(text).startswith(("=", "+", "-", "@")) for text in texts)
    rows = "".join(f"{guarded(f'-{n}.jpg')},{guarded(text)},,,\n" for n, text in enumerate(texts))
    table = table_of(tmp_path, f"path,T,full_path,key,size_bytes\n{rows}")
    assert table.columns["T"].to_pylist() == texts
    assert table.names == [f"-{n}.jpg" for n in range(len(texts))]
    people_wrote = "".join(f"{n}.jpg,{text}\n" for n, text in enumerate(texts))
    assert table_of(tmp_path, f"path,T\n{people_wrote}").columns["T"].to_pylist() == texts
