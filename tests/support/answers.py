"""What the tests of `embedsearch serve` look at in answers."""

from __future__ import annotations

from tests.support.library import SAMPLES
from tests.support.serving import Response

CLOCK = (SAMPLES / "clocks" / "clocks_1.jpg").read_bytes()


def failed(response: Response, status: int, words: str = "") -> None:
    """Check that a request failed as it should, and that the answer betrays nothing."""
    assert response.status == status, response.body[:300]
    text = response.body.decode()
    assert set(response.json) <= {"error", "code", "field", "reason"}
    assert words in text
    assert "Traceback" not in text and "/tmp" not in text and "site-packages" not in text


def shortened(case: str | bytes) -> str:
    """Return what names a case in a test's name: its beginning, and its length where it is long."""
    text = case if isinstance(case, str) else case.decode("latin-1")
    text = text if len(text) <= 40 else f"{text[:30]}… ({len(text):,})"
    return text or "nothing"
