"""Clusters, outliers and maps: known answers on known pictures."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import embedsearch
from embedsearch.core.errors import NothingIndexed, UsageError
from embedsearch.curation.clusters import clusters, outliers
from embedsearch.curation.picture_map import picture_map
from tests.support.library import CLOCK, paint, run_cli


def test_clusters_hold_what_is_alike(store: Path) -> None:
    found = clusters(store, 9)
    assert sum(len(cluster.rows) for cluster in found) == 64
    assert [cluster.number for cluster in found] == list(range(1, len(found) + 1))
    sizes = [len(cluster.rows) for cluster in found]
    assert sizes == sorted(sizes, reverse=True)
    pure = sum(
        max(
            sum(path.split("/")[-2] == folder for path in cluster.full_paths)
            for folder in {path.split("/")[-2] for path in cluster.full_paths}
        )
        for cluster in found
    )
    assert pure / 64 > 0.55  # nine folders of six, and copies; by chance a quarter
    assert clusters(store, 9) == found
    with embedsearch.open_store(store) as searcher:
        first = found[0]
        center = searcher.manifest.open_center()
        assert center is not None
        vectors = center.measured(searcher.embed([embedsearch.Key(row) for row in first.rows]))
        centre = vectors.mean(axis=0)
        cosines = vectors @ centre / np.linalg.norm(centre)
        assert abs(cosines.mean() - first.cohesion) < 0.02
    assert len(clusters(store, 1)) == 1 and len(clusters(store)) <= 6


@pytest.mark.parametrize(("k", "words"), [(0, "from 1"), (65, "from 1 to 64")])
def test_as_many_clusters_as_there_cannot_be(store: Path, k: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        clusters(store, k)


def test_the_odd_one_out(store: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(12):
        image = Image.open(CLOCK).convert("RGB")
        image.resize((200 + number, 150)).save(photos / f"clock_{number}.png")
    paint(photos / "odd.png", 5)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    oddest, *others = outliers(tmp_path / "s.es", 13)
    assert oddest.full_path.endswith("odd.png")
    assert all(other.score > oddest.score + 0.1 for other in others)
    scores = [odd.score for odd in outliers(store, 64)]
    assert scores == sorted(scores) and len(scores) == 64
    done = run_cli("outliers", "-k", "2", "--store", tmp_path / "s.es", "--json")
    assert json.loads(done.stdout.splitlines()[0])["row"] == oddest.row


def test_a_map(store: Path) -> None:
    found = picture_map(store)
    assert len(found.points) == found.images == 64
    places = np.array([(point.x, point.y) for point in found.points])
    assert places.min() == 0.0 and places.max() == 1.0
    with embedsearch.open_store(store) as searcher:
        vectors = searcher.embed([embedsearch.Key(point.key) for point in found.points])
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    for place, axis in zip(places.T, axes[:2], strict=True):
        assert abs(np.corrcoef(place, centred @ axis)[0, 1]) > 0.99
    assert all(Image.open(io.BytesIO(p.jpeg)).format == "JPEG" for p in found.points if p.jpeg)
    assert sum(point.jpeg is None for point in found.points) == 0
    assert len(picture_map(store, max_images=10).points) == 10
    with pytest.raises(UsageError, match="pca, umap"):
        picture_map(store, method="tsne")
    with pytest.raises(NothingIndexed):
        picture_map(store, where="path like 'clocks/clocks_1%'")


@pytest.mark.scale
def test_umap_keeps_neighbors_together(store: Path) -> None:
    pytest.importorskip("umap", reason="needs the extra `map`")
    found = picture_map(store, method="umap", where="path not like 'copies/%'")
    places = np.array([(point.x, point.y) for point in found.points])
    folders = np.array([os.path.dirname(point.key) for point in found.points])
    far = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(far, np.inf)
    assert (folders[far.argmin(axis=1)] == folders).mean() > 0.6  # of nine folders


def test_a_map_is_one_page_of_data(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    hostile = "</script><img src=x onerror=alert(1)>"
    for seed, name in enumerate(("a", hostile.replace("/", "_"), "b\n", "gone")):
        paint(photos / f"{name}.png", seed)
    (photos / "</script>").mkdir(parents=True)
    paint(photos / "</script>" / "c.png", 9)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    (photos / "gone.png").unlink()
    out = tmp_path / "map.html"
    done = run_cli("map", out, "--store", tmp_path / "s.es")
    assert done.returncode == 0, done.stderr
    page = out.read_text()
    assert page.count("<script>") == page.count("</script>") == 1
    assert "http:" not in page and "https:" not in page and "onerror=alert" in page
    (folder := tmp_path / "folder").mkdir()
    assert run_cli("map", folder, "--store", tmp_path / "s.es").returncode == 4
    assert not list(folder.iterdir())


def test_a_map_shows_the_pictures_that_were_indexed(tmp_path: Path) -> None:
    """Also behind a link; not another one that has taken the place of one."""
    away = paint(tmp_path / "away" / "linked.png", 1)
    for number in range(3):
        paint(tmp_path / "p" / f"{number}.png", number)
    (tmp_path / "p" / "linked.png").symlink_to(away)
    embedsearch.index(tmp_path / "p", store=tmp_path / "s.es", model="packaged")
    paint(tmp_path / "p" / "0.png", 50)
    shown = {p.key: p.jpeg is not None for p in picture_map(tmp_path / "s.es").points}
    assert shown == {"0.png": False, "1.png": True, "2.png": True, "linked.png": True}


def test_folders_of_several_roots_are_told_apart(tmp_path: Path) -> None:
    for number, place in enumerate(("cats", "dogs", "dogs/old", "dogs/old")):
        paint(tmp_path / place / f"{number}.png", number)
    folders = [tmp_path / "cats", tmp_path / "dogs"]
    embedsearch.index(folders, store=tmp_path / "s.es", model="packaged")
    assert sorted(picture_map(tmp_path / "s.es").legend.names) == ["cats", "dogs", "dogs/old"]


def test_an_empty_store_has_neither(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photo = paint(photos / "a.png", 1)
    embedsearch.index(photos, store=tmp_path / "s.es", model="packaged")
    photo.unlink()
    with pytest.raises(NothingIndexed):
        embedsearch.index(photos, store=tmp_path / "s.es", allow_empty=True)
    for command in (["clusters"], ["outliers"], ["map", str(tmp_path / "m.html")]):
        done = run_cli(*command, "--store", tmp_path / "s.es")
        assert done.returncode == 1 and "image" in done.stderr
    done = run_cli("duplicates", "--store", tmp_path / "s.es")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("count", [3, 4, 5, 9, 10, 11, 12])
def test_umap_takes_as_few_as_pca(tmp_path: Path, count: int) -> None:
    pytest.importorskip("umap", reason="needs the extra `map`")
    for seed in range(count):
        paint(tmp_path / "p" / f"{seed}.png", seed % 7)  # some are equal
    embedsearch.index(tmp_path / "p", store=tmp_path / "s.es", model="packaged")
    for method in ("pca", "umap"):
        points = picture_map(tmp_path / "s.es", method=method).points
        assert len(points) == count
        assert all(0 <= point.x <= 1 and 0 <= point.y <= 1 for point in points)
