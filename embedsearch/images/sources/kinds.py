"""What a file is by its name, and by its first bytes where the name does not say."""

from __future__ import annotations

import os
import re
from enum import Enum, auto
from functools import cache
from importlib.util import find_spec

SUFFIXES = frozenset(
    b"jpg jpeg jpe jfif jif pjpeg pjp mpo png apng webp gif bmp dib tif tiff avif heic heif"
    b" hif".split()
)
HEAD_BYTES = 16  # that tell an image
# Libraries that read more formats.
_OPTIONAL = ("imagecodecs", "pillow_heif", "rawpy", "tifffile")


class Kind(Enum):
    """What a name says of a file."""

    IMAGE = auto()
    UNKNOWN = auto()  # no suffix, or one that says nothing: only the content tells
    RAW = auto()  # where the library that reads it is absent; else an image
    VIDEO = auto()
    SIDECAR = auto()
    ARCHIVE = auto()
    OTHER = auto()


_KINDS = {
    **dict.fromkeys(SUFFIXES, Kind.IMAGE),
    **dict.fromkeys(
        b"3fr ari arw bay cap cr2 cr3 crw dcr dcs dng drf eip erf fff gpr iiq k25 kdc mdc mef mos"
        b" mrw nef nrw orf pef ptx pxn raf raw rw2 rwl rwz sr2 srf srw x3f".split(),
        Kind.RAW,
    ),
    **dict.fromkeys(
        b"3g2 3gp asf avi dv f4v flv insv lrv m2ts m2v m4v mkv mod mov mp4 mpe mpeg mpg mts mxf ogv"
        b" qt r3d tod ts vob webm wmv".split(),
        Kind.VIDEO,
    ),
    **dict.fromkeys(b"aae cls json thm txt xmp".split(), Kind.SIDECAR),
    **dict.fromkeys(
        b"7z bz2 cbr cbz gz lz4 parquet rar tar tbz tbz2 tgz txz tzst xz zip zst".split(),
        Kind.ARCHIVE,
    ),
    # What lies on disks in numbers, and is not looked into; what is not complete yet; and pictures
    # of microscopes, which begin like a TIFF.
    **dict.fromkeys(
        b"a aac ai ape apk asc asm ass avro bat bin bson bz c cab cache cc cfg class cmd conf cpp"
        b" crdownload crt cs csh css csv cxx dat db db3 deb dcm dcp dll dmg doc docm docx dot dotx"
        b" download dylib egg eml env eot eps epub exe f f90 fig flac fnt fon gd gitignore glb go"
        b" gltf gpx gradle h h5 hdf5 hh hpp htm html hxx ico ics idx img ini iml ipynb iso jar java"
        b" js jsonl jsx jxl key kml ko kt la lib lnk lock log lrcat lsm lua m m3u m3u8 m4a map mat"
        b" max md mdb mid mjs mobi mrxs msg msi ndjson ndpi npy npz o obj odg odp ods odt ogg onnx"
        b" opus ort otf p12 par2 part partial pb pbtxt pcd pdb pdf pem php pickle pid pkl pl plist"
        b" ply pot potx pps ppsx ppt pptx prn properties proto ps ps1 psb psd pt pth pub pxd py pyc"
        b" pyd pyi pyo pyx qml r rb rdf reg rpm rs rst rtf s safetensors sass scala scn scss sh so"
        b" sql sqlite sqlite3 srt stl svg svgz svs swf swift swp sys temp tex tmp toml torrent"
        b" tsv tsx ttc ttf vbs vcf vms vtt vue wav weights whl wma wmf woff woff2 wsf xcf xhtml"
        b" xls xlsb xlsm xlsx xml xsl yaml yml".split(),
        Kind.OTHER,
    ),
}
# Copies that browsers, downloaders and editors name: photo.jpg_large, photo.jpg?width=300,
# photo.jpg~, photo.jpg.1, photo.jpg.bak. Not photo.jpg_original: ExifTool leaves it beside each
# picture whose tags it changed.
_VARIANT = re.compile(
    rb".+\.(?:" + b"|".join(sorted(SUFFIXES)) + rb")"
    rb"(?:(?!_original$)[~_?&:!@#%;,= -][^.]*|[?].*|\.\d{1,4}|\.(?:bak|backup|old|orig)"
    rb"|\.?[~_ -]?\(\d{1,4}\))",
    re.IGNORECASE | re.DOTALL,
)
_SUFFIX = re.compile(rb"[a-z][a-z0-9]{0,11}(?:_original)?", re.IGNORECASE)
_ORIGINAL = b"_original"  # what ExifTool keeps
_HEIF_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1".split())
_AVIF_BRANDS = frozenset(b"avif avis".split())
# How RAW files begin that are no TIFFs, or TIFFs of one maker: first byte, bytes.
_RAW_STARTS = (
    (0, b"FUJIFILMCCD-RAW"), (0, b"IIRO"), (0, b"IIRS"), (0, b"MMOR"), (0, b"IIU\0"), (0, b"FOVb"),
    (0, b"\0MRM"), (6, b"HEAPCCDR"), (4, b"ftypcrx "), (0, b"ARRI\x12\x34\x56\x78"),
    (0, b"ARRI\x78\x56\x34\x12"), (0, b"II*\0\x10\0\0\0CR"),
)  # fmt: skip


def is_hidden(name: bytes) -> bool:
    """Return whether a name is hidden."""
    return name.startswith(b".") and not name.startswith(b"..")


def suffix_of(name: bytes) -> bytes:
    """Return what follows the last dot, in small letters; nothing where there is no dot."""
    return name.rpartition(b".")[2].strip().lower() if b"." in name else b""


def kind_of(name: bytes) -> Kind:
    """Return what the name of a file says; most names cost one look into a table."""
    suffix = suffix_of(name)
    if (kind := _KINDS.get(suffix)) is not None:
        # What follows a blank is a word: `Dr. Max`.
        if kind is Kind.OTHER and name.rpartition(b".")[2].startswith(b" "):
            return Kind.UNKNOWN
        return Kind.IMAGE if kind is Kind.RAW and reads_raw() else kind
    if _VARIANT.fullmatch(name):
        return Kind.IMAGE
    return Kind.OTHER if suffix.endswith(_ORIGINAL) else Kind.UNKNOWN


@cache
def reads_raw() -> bool:
    """Return whether the library that reads RAW is installed; it is not loaded here."""
    return find_spec("rawpy") is not None


def optional_readers() -> list[str]:
    """Return the libraries for more formats that are installed; none is loaded here."""
    return [name for name in _OPTIONAL if find_spec(name) is not None]


def shown_suffix(name: bytes) -> bytes:
    """Return the suffix by which a file is counted, nothing where it looks like none."""
    return suffix if _SUFFIX.fullmatch(suffix := suffix_of(name)) else b""


def has_image_name(name: bytes) -> bool:
    """Return whether a file is an image by its name."""
    return kind_of(name) is Kind.IMAGE


def starts_an_image(head: bytes) -> bool:
    """Return whether the first HEAD_BYTES of a file are those of an image that is read."""
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")):
        return True
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    if head.startswith(b"BM"):  # two letters are few: bytes 6 to 9 are reserved
        return head[6:10] == bytes(4) and len(head) == HEAD_BYTES
    return is_tiff(head) or is_heif(head) or is_avif(head) or is_raw(head)


def is_tiff(head: bytes) -> bool:
    """Return whether a file begins as TIFF does, and most RAW."""
    return head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


def is_raw(head: bytes) -> bool:
    """Return whether a file begins as RAW does, other than what begins as any TIFF."""
    return any(head.startswith(start, offset) for offset, start in _RAW_STARTS)


def is_heif(head: bytes) -> bool:
    """Return whether a file begins as HEIF does, other than AVIF."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def is_avif(head: bytes) -> bool:
    """Return whether a file begins as AVIF does."""
    return head[4:8] == b"ftyp" and head[8:12] in _AVIF_BRANDS


def file_starts_an_image(descriptor: int) -> bool:
    """Return whether an open file is an image by its content; False where it cannot be read."""
    try:
        return starts_an_image(os.pread(descriptor, HEAD_BYTES, 0))
    except OSError:
        return False
