"""Jobs for a decode pool."""

from __future__ import annotations

from embedsearch.core.records import ImageLocation, ImageRef
from embedsearch.images.decode.process import DecodeJob


def decode_job(ref: ImageRef, folder: str) -> DecodeJob:
    """Return the job for the file `ref.key` below a folder."""
    return DecodeJob(ref, ImageLocation(folder, ref.key, ref.size, ref.mtime_ns))
