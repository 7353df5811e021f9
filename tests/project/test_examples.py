"""The worked example runs as it is, offline, and its captions are about the sample images."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from tests.support.library import REPOSITORY, SAMPLES

EXAMPLES = REPOSITORY / "examples"


def test_a_question_is_answered_from_captions(tmp_path: Path) -> None:
    script = str(EXAMPLES / "answer_from_captions.py")
    image = str(SAMPLES / "clocks" / "clocks_3.png")
    command = [sys.executable, script, image, "What is this?"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    lines = done.stdout.splitlines()
    captions = [line for line in lines if line[:2] in {"1.", "2.", "3.", "4."}]
    assert len(captions) == 4 and all("clock" in line or "watch" in line for line in captions)
    assert "alarm" not in done.stdout  # its own caption would be no answer
    assert "Question: What is this?" in lines
    answer = "Answer: (stand-in) Probably something like: "
    assert lines[-1] == answer + captions[0].partition(") ")[2]
    bare = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert bare.returncode == 1 and "examples/answer_from_captions.py" in bare.stderr


def test_every_sample_image_has_a_caption() -> None:
    with (EXAMPLES / "captions.csv").open(newline="") as file:
        captions = {row["path"]: row["caption"] for row in csv.DictReader(file)}
    images = {
        path.relative_to(SAMPLES).as_posix()
        for path in SAMPLES.glob("*/*")
        if path.suffix in {".jpg", ".png", ".webp"}
    }
    assert set(captions) == images
    assert len(set(captions.values())) == len(images)


def test_three_ways_side_by_side(tmp_path: Path) -> None:
    script = str(EXAMPLES / "three_ways.py")
    command = [sys.executable, script, str(SAMPLES / "boats" / "boats_1.jpg"), "red sails"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    head, *rows = done.stdout.splitlines()
    assert head.split("  ")[0] == "words: red sails" and len(rows) == 6
    first = [cell.strip() for cell in rows[0].split("  ") if cell.strip()]
    assert first == [
        "boats/boats_2.jpg (caption)",
        "boats/boats_1.jpg (picture)",
        "boats/boats_2.jpg (picture, caption)",
    ]
    bare = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert bare.returncode == 1 and "IMAGE WORDS" in bare.stderr
