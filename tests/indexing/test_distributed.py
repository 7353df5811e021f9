"""Work that many processes share: units in any order, one commit, and what is lost."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from embedsearch.core.config import DecodeLimits, IndexConfig
from embedsearch.core.errors import (
    IncompatibleStore,
    Interrupted,
    PlanOpen,
    UnitsMissing,
    UsageError,
)
from embedsearch.core.records import Reason
from embedsearch.core.session import Session
from embedsearch.indexing.distributed.commit import commit, discard_plan
from embedsearch.indexing.distributed.plan import plan
from embedsearch.indexing.distributed.run import run_units
from embedsearch.store.check import check_store
from embedsearch.store.current import read_current
from embedsearch.store.info import failures
from embedsearch.store.units import UNITS_NAME, read_record
from tests.support.archives import make_tar, members_of
from tests.support.extractor import CountingExtractor
from tests.support.library import SAMPLES, paint, run_cli
from tests.support.stores import live_rows
from tests.support.units import Shared


def test_units_in_any_order_give_what_index_gives(
    shared: Shared, alone: Shared, photos: Path, tmp_path: Path
) -> None:
    (photos / "a" / "broken.jpg").write_bytes(b"no picture")
    archive = make_tar(tmp_path / "more.tar", members_of(photos / "b"))
    made = shared.plan(photos, archive)
    assert [unit.images for unit in made.units] == [5, 5, 5, 4] and made.base == 1
    assert read_current(shared.store).live == 0, "nothing counts before the commit"
    for number in (3, 1, 0, 2):
        report = shared.run(number)
        assert (report.units, report.ran) == (4, 1)
    assert report.missing == 0
    done = commit(shared.store)
    assert (done.generation, done.images, done.added, done.failed) == (3, 18, 18, 1)
    alone.index(photos, archive)
    assert shared.facts == alone.facts
    assert list(failures(shared.store)) == list(failures(alone.store))
    assert not (shared.store / UNITS_NAME).exists()
    assert check_store(shared.store, read_data=True)[1] == []
    again = shared.index()
    assert (again.embedded, again.unchanged, again.failed, again.committed) == (0, 18, 1, False)
    numbers = [row["row"] for row in live_rows(shared.store)]
    assert len(set(numbers)) == 18 and max(numbers) < read_current(shared.store).next_row == 19


def test_a_plan_adds_to_what_is_there(shared: Shared, alone: Shared, photos: Path) -> None:
    """Changed, moved, touched and deleted images: rows of before go with the commit, not sooner."""
    for library in (shared, alone):
        library.index(photos)
    before = read_current(shared.store)
    paint(photos / "a" / "01.png", 77)
    paint(photos / "a" / "new.png", 78)
    (photos / "a" / "03.png").write_bytes(b"now broken")
    (photos / "a" / "05.png").rename(photos / "b" / "moved.png")
    (photos / "a" / "07.png").unlink()
    os.utime(photos / "a" / "09.png", (1, 1))
    made = shared.plan(shares=2)
    assert made.images == 3 and made.base == before.generation + 1
    assert read_current(shared.store).live == 11, "moved and deleted ones are done"
    assert any(row["path"] == "a/03.png" for row in live_rows(shared.store))
    shared.run(0, 1)
    done = commit(shared.store)
    assert (done.added, done.changed, done.failed, done.images) == (1, 1, 1, 11)
    alone.index()
    assert shared.facts == alone.facts
    assert list(failures(shared.store)) == list(failures(alone.store))
    assert check_store(shared.store, read_data=True)[1] == []


def test_what_a_user_said_stays_with_a_changed_image(
    shared: Shared, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("path,stars\na/01.png,5\n")
    shared.index(photos, metadata=str(tmp_path / "t.csv"))
    paint(photos / "a" / "01.png", 77)
    shared.plan()
    shared.run(0)
    commit(shared.store)
    from tests.support.stores import said

    assert said(shared.store, "a/01.png") == {"stars": 5}


def test_a_changed_image_that_cannot_be_read_now_keeps_its_row(
    shared: Shared, photos: Path
) -> None:
    shared.index(photos)
    before = shared.facts
    paint(photos / "a" / "01.png", 77)
    (photos / "b" / "00.png").write_bytes(b"no picture")
    shared.plan()
    (photos / "a" / "01.png").rename(photos / "away")
    shared.run(0, 1)
    assert commit(shared.store).failed == 2
    assert shared.facts == [row for row in before if row["key"] != b"b/00.png"]
    (photos / "away").rename(photos / "a" / "01.png")
    report = shared.index()
    assert (report.changed, report.added, report.failed) == (1, 0, 1)


def test_units_that_are_none(shared: Shared, photos: Path) -> None:
    shared.plan(photos)
    for number in (4, -1):
        with pytest.raises(UsageError, match=f"units 0 to 3, not {number}"):
            shared.run(number)


def test_a_plan_keeps_what_a_search_may_cost(shared: Shared, photos: Path) -> None:
    shared.plan(photos, ann="exact", recall=0.9)
    numbers = range(4)
    other = IndexConfig(ann="Flat")
    with pytest.raises(UsageError, match="made with another ann"):
        run_units(shared.store, numbers, config=other)
    shared.run(*numbers)
    commit(shared.store)
    budget = read_current(shared.store).search.budget
    assert (budget.factory, budget.recall) == ("exact", 0.9)


def test_a_lost_unit_is_found_and_run_again(shared: Shared, photos: Path) -> None:
    made = shared.plan(photos)
    shared.run(0, 1, 3)
    with pytest.raises(UnitsMissing, match=r"1 of 4 units are not done \(2\)"):
        commit(shared.store)
    assert read_current(shared.store).live == 0
    record = read_record(shared.store, made, 1)
    assert record is not None and record.shard is not None
    lost = shared.store / UNITS_NAME / record.shard.relative
    lost.chmod(0o600)
    lost.write_bytes(lost.read_bytes()[:-1])
    (shared.store / UNITS_NAME / "u-00000003.json").unlink()
    with pytest.raises(UnitsMissing, match=r"3 of 4 units are not done \(1, 2, 3\)"):
        commit(shared.store)
    CountingExtractor.embedded = 0
    report = shared.run(0, 1, 2, 3)
    assert (report.ran, report.missing, CountingExtractor.embedded) == (3, 0, 9)
    assert commit(shared.store).images == 12
    assert check_store(shared.store, read_data=True)[1] == []


def test_two_runs_of_one_unit_are_harmless(shared: Shared, alone: Shared, photos: Path) -> None:
    made = shared.plan(photos, shares=1)
    shared.run(0)
    first = read_record(shared.store, made, 0)
    (shared.store / UNITS_NAME / "u-00000000.json").unlink()  # the second one began before
    shared.run(0)
    second = read_record(shared.store, made, 0)
    assert first is not None and second is not None
    assert first.shard == second.shard, "the same rows under the same numbers"
    commit(shared.store)
    alone.index(photos)
    assert shared.facts == alone.facts


def test_nothing_else_writes_while_a_plan_is_open(shared: Shared, photos: Path) -> None:
    shared.plan(photos)
    with pytest.raises(PlanOpen, match="finish it with embedsearch commit"):
        shared.index()
    with pytest.raises(PlanOpen):
        plan(store=shared.store, shares=2)
    done = run_cli("repair", "--store", shared.store)
    assert done.returncode == 3 and "commit --drop" in done.stderr
    assert shared.index(dry_run=True).added == 12
    shared.run(2)
    done = run_cli("info", "--store", shared.store)
    assert "open plan   1 of 4 units done, 12 images" in done.stdout
    assert run_cli("check", "--store", shared.store, "--read-data").returncode == 0
    discard_plan(shared.store)
    assert "open plan" not in run_cli("info", "--store", shared.store).stdout
    assert shared.index().added == 12
    with pytest.raises(UsageError, match="no open plan"):
        commit(shared.store)
    with pytest.raises(UsageError, match="no open plan"):
        shared.run(0)


@pytest.mark.parametrize("step", ["adopt", "commit", "drop"])
def test_a_commit_that_is_killed_is_made_up_for(
    step: str, shared: Shared, alone: Shared, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.plan(photos)
    shared.run(0, 1, 2, 3)

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if step == "adopt":
            patch.setattr("embedsearch.indexing.distributed.commit.StoreUpdate", die)
        elif step == "commit":
            patch.setattr("embedsearch.indexing.store_update.StoreUpdate.commit", die)
        else:
            patch.setattr("embedsearch.indexing.distributed.commit.drop", die)
        with pytest.raises(Killed):
            commit(shared.store)
    assert commit(shared.store).images == 12
    alone.index(photos)
    assert shared.facts == alone.facts
    assert check_store(shared.store, read_data=True)[1] == []
    assert shared.index().embedded == 0


def test_all_of_a_unit_may_fail(shared: Shared, tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "p" / f"{number}.jpg").write_bytes(b"no picture")
    paint(tmp_path / "p" / "9.png", 9)
    shared.plan(tmp_path / "p", shares=7)
    report = shared.run(*range(7))
    assert (report.images, report.failed) == (1, 6)
    assert commit(shared.store).failed == 6
    assert {f.reason for _, f in failures(shared.store)} == {Reason.NOT_AN_IMAGE}


def test_a_stopped_share_keeps_its_finished_units(shared: Shared, photos: Path) -> None:
    shared.plan(photos, shares=12)
    stops = itertools.chain([0] * 200, itertools.repeat(15))
    session = Session(stop=lambda: next(stops))
    try:
        shared.run(*range(12), session=session)
    except Interrupted as error:
        assert error.exit_code == 143 and "the same command" in str(error)
    before = CountingExtractor.embedded
    shared.run(*range(12))
    assert CountingExtractor.embedded <= 12 + 12 and before <= 12
    assert commit(shared.store).images == 12


def test_all_processes_make_the_same(shared: Shared, photos: Path) -> None:
    shared.plan(photos)
    config = IndexConfig(input_side=160)
    with pytest.raises(IncompatibleStore, match="the plan is for packaged"):
        run_units(shared.store, [0], config=config)
    config = IndexConfig(limits=DecodeLimits(max_pixels=9))
    with pytest.raises(UsageError, match="another max_pixels"):
        run_units(shared.store, [0], config=config)


def test_processes_of_a_scheduler(tmp_path: Path) -> None:
    """All start at once on an empty store; the first plans; one is killed and run again."""
    store = tmp_path / "s.es"
    command = [
        *(sys.executable, "-m", "embedsearch", "index", str(SAMPLES), "--store", str(store)),
        *("--model", "packaged", "--workers", "1", "--json", "--unit"),
    ]
    runs = [subprocess.Popen([*command, f"{n}/4"], stdout=-1, stderr=-1) for n in range(1, 5)]
    time.sleep(0.4)
    runs[2].send_signal(signal.SIGKILL)
    reports = []
    for run in runs:
        out, err = run.communicate(timeout=120)
        if run.returncode != -signal.SIGKILL:
            assert run.returncode == 0, err
            reports.append(json.loads(out))
    done = subprocess.run([*command, "3/4"], capture_output=True, timeout=120, check=True)
    last = json.loads(done.stdout)
    assert last["missing"] == 0 and last["units"] >= 4
    words = run_cli("commit", "--store", store)
    assert words.returncode == 0, words.stderr
    whole = run_cli("index", SAMPLES, "--store", tmp_path / "w.es", "--model", "packaged", "--json")
    assert read_current(store).live == json.loads(whole.stdout)["images"]
    assert f"{read_current(store).live} images" in words.stdout
    again = run_cli("index", SAMPLES, "--store", store, "--unit", "0/4")
    assert again.returncode == 0 and "nothing to embed" in again.stdout
    assert not (store / UNITS_NAME).exists()


@pytest.mark.parametrize("unit", ["5/4", "x/4", "1", "1/0", "-1/4", "1/2/3"])
def test_a_share_that_is_none(unit: str, tmp_path: Path) -> None:
    done = run_cli("index", SAMPLES, "--store", tmp_path / "s.es", f"--unit={unit}")
    assert done.returncode == 2 and "--unit" in done.stderr
    assert not (tmp_path / "s.es").exists()


def test_options_that_go_with_no_unit(shared: Shared, photos: Path) -> None:
    for _ in ("no plan is open", "one is"):
        for option in ("--rebuild", "--dry-run", "--sidecars", "--watch"):
            done = run_cli("index", photos, "--store", shared.store, "--unit", "0/2", option)
            assert done.returncode == 2 and option in done.stderr
        if not shared.store.exists():
            shared.plan(photos)
    done = run_cli("index", SAMPLES, "--store", shared.store, "--unit", "0/4")
    assert done.returncode == 2 and "does not cover" in done.stderr


def test_strict_counts_in_shared_work_too(photos: Path, tmp_path: Path) -> None:
    (photos / "bad.jpg").write_text("{}")
    index = ["index", photos, "--model", "packaged", "--unit", "1/1"]
    assert run_cli(*index, "--store", tmp_path / "f.es", "--strict").returncode == 1
    assert run_cli(*index, "--store", tmp_path / "g.es").returncode == 0
    done = run_cli("index", photos, "--store", tmp_path / "h.es", "--strict", "--watch")
    assert done.returncode == 2 and "--strict needs a run that ends" in done.stderr
