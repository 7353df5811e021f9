"""Repair a damaged store from its undamaged files; in: a store, out: what was done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from embedsearch.core.arguments import checked
from embedsearch.core.errors import DamagedStore
from embedsearch.core.session import Session
from embedsearch.indexing.exact_files import refresh_exact
from embedsearch.indexing.images_table import refresh_images_table
from embedsearch.indexing.words_file import refresh_words
from embedsearch.searching.ann.tuning import tune
from embedsearch.store.check import check_store
from embedsearch.store.current import check_format, read_current
from embedsearch.store.files import is_own_name
from embedsearch.store.info import roll_back
from embedsearch.store.locate import StorePath, locate_store
from embedsearch.store.lock import WriterLock
from embedsearch.store.restore import restore_pointer
from embedsearch.store.writer import StoreWriter


@checked
def repair(
    store: StorePath = None,
    *,
    to: int | None = None,
    wait_s: float = 0.0,
    session: Session | None = None,
) -> list[str]:
    """Repair a store from its undamaged files; return what was done, a line each.

    `to` first makes a former generation the newest one, see `roll_back`.

    The FAISS files and the words are rebuilt from the shards; if CURRENT or a manifest is damaged,
    the newest complete generation becomes current. Damaged shards raise DamagedStore: only
    re-embedding the images restores them.
    """
    store, session = locate_store(store), session or Session()
    check_format(store)
    done = [] if to is None else roll_back(store, to, wait_s, session)
    lock = WriterLock(store, wait_s, session.check, session.notice)
    try:
        restored = restore_pointer(store)
    finally:
        lock.release()
    if restored is not None:
        live = read_current(store).live
        words = f"CURRENT names generation {restored.generation} again, of {live} images"
        if restored.has_lost:
            words += "; what later ones held is lost: index its folders again"
        done.append(words)
    with StoreWriter(store, wait_s, session) as writer:
        _, problems = check_store(store, read_data=True)
        ours = [p for p in problems if is_own_name(Path(p.file).name) or p.file == "shards"]
        if damaged := [p for p in ours if p.file.startswith("shards")]:
            raise DamagedStore(damaged[0].message)
        broken = {p.file for p in problems if p.file.startswith("ann/")}
        manifest = writer.manifest
        assert manifest is not None, "check has read it"
        sound = tuple(record for record in manifest.exact if record.relative not in broken)
        repaired = replace(manifest, exact=refresh_exact(writer, replace(manifest, exact=sound)))
        lost = {p.file for p in problems if p.file.startswith("meta/")}
        if manifest.metadata is not None and manifest.metadata.relative in lost:
            repaired = replace(repaired, metadata=None)
            done.append("your own columns are lost: index with your table again to bring them back")
        if manifest.ann is not None and manifest.ann.relative in broken:
            repaired = replace(repaired, ann=None)
            repaired = tune(writer, repaired, manifest.search.budget, session)
        if (repaired.exact, repaired.ann) != (manifest.exact, manifest.ann):
            done.append("the FAISS files were built again from the shards")
        if manifest.words is not None and manifest.words.relative in broken:
            repaired = replace(repaired, words=None)
            repaired = replace(repaired, words=refresh_words(writer, repaired, session))
            done.append("the words were collected again from the rows")
        if repaired != manifest:
            writer.commit(repaired)
        assert writer.manifest is not None, "there was one"
        refresh_images_table(store, writer.manifest)
    return done
