"""The named models; each is a record of architecture, weights and preprocessing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from embedsearch.core.model_spec import BICUBIC, BILINEAR, CROP, DECODING, MILD_CROP, ModelSpec

PACKAGED = "packaged"
AUTO = "auto"
AUTO_MODEL = "resnet50"

# What benchmarks/QUALITY.md shows to be best at no cost, on nine kinds of photos and whatever the
# network: a mildly cropped picture, and GeM with p = 2 and the middle weighted.
DEFAULT_SIDE = 224
_TEMPLATE = ModelSpec(
    name="",
    architecture="",
    weights_sha256="",
    dim=0,
    input_side=DEFAULT_SIDE,
    resize=MILD_CROP,
    interpolation=BILINEAR,
    draft=1,
    pooling="gem2",
    gaussian=0.4,
    decoding=DECODING,
)

CLIP = "clip_"  # before the name of a network that CLIP was trained with
_CLIP_TEMPLATE = replace(  # as it was trained
    _TEMPLATE,
    resize=CROP,
    interpolation=BICUBIC,
    draft=2,
    pooling="",
    gaussian=0.0,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)

_IMAGENET = "trained on ImageNet, whose terms allow non-commercial research and education; "
_IMAGENET_TERMS = _IMAGENET + "torchvision publishes the weights under BSD-3-Clause"
_TIMM_TERMS = _IMAGENET + "timm publishes the weights under Apache-2.0"
_TINY_IMAGENET_TERMS = (
    "trained on Tiny ImageNet, a part of ImageNet, whose terms allow non-commercial research "
    "and education; see the model card"
)
_FILE_TERMS = "as its file's owner says"
_TIMM_RELEASES = "https://github.com/rwightman/pytorch-image-models/releases/download"


@dataclass(frozen=True)
class CatalogEntry:
    """A named model: its record, without the sha256 of weights that are not downloaded yet.

    The name of a published file ends in the first 8 hex digits of its sha256; no more are
    published. An entry without `url` is in the package.
    """

    spec: ModelSpec
    url: str | None
    megabytes: float
    quality: str
    sha256: str = ""  # of the file, where it is published

    @property
    def name(self) -> str:
        """Return its name, as in `--model`."""
        return self.spec.name

    @property
    def file_name(self) -> str:
        """Return the name under which torch's hub cache keeps the download."""
        return "" if self.url is None else self.url.rpartition("/")[2]

    @property
    def sha256_prefix(self) -> str:
        """Return the published hex digits of the download's sha256."""
        return self.sha256 or self.file_name.removesuffix(".pth").rpartition("-")[2]


def file_spec(name: str, architecture: str, dim: int, sha256: str, source: str) -> ModelSpec:
    """Return the record of a user's weights without a record of their own."""
    template = _CLIP_TEMPLATE if architecture.startswith(CLIP) else _TEMPLATE
    spec = replace(template, name=name, architecture=architecture, dim=dim)
    return replace(spec, weights_sha256=sha256, licence=_FILE_TERMS, source=source)


def _entry(
    name: str, dim: int, url: str, megabytes: float, quality: str, licence: str
) -> CatalogEntry:
    base = name.partition(".")[0]
    spec = replace(_TEMPLATE, name=name, architecture=base, dim=dim, licence=licence, source=url)
    return CatalogEntry(spec, url, megabytes, quality)


def _torchvision(name: str, dim: int, digits: str, megabytes: float, top1: str) -> CatalogEntry:
    file = f"{name.partition('.')[0]}-{digits}.pth"
    url = f"https://download.pytorch.org/models/{file}"
    return _entry(name, dim, url, megabytes, f"ImageNet top-1 {top1} %", _IMAGENET_TERMS)


def _timm(name: str, dim: int, file: str, megabytes: float, kind: str = "") -> CatalogEntry:
    url = f"{_TIMM_RELEASES}/v0.1{kind}-weights/{file}.pth"
    return _entry(name, dim, url, megabytes, "ImageNet, by timm", _TIMM_TERMS)


_PACKAGED_SPEC = replace(
    file_spec(PACKAGED, "resnet18", 512, "", "packaged with embedsearch"),
    input_side=144,
    pooling="gem3",  # better for this small network only, see the same table
    licence=_TINY_IMAGENET_TERMS,
)

_CLIP_URL = (
    "https://huggingface.co/timm/resnet50_clip.openai/resolve/"
    "ec3d92cf63a5f9d591f0d611b736895966c73076/open_clip_model.safetensors"
)
_CLIP = CatalogEntry(
    replace(
        file_spec("clip-resnet50", f"{CLIP}resnet50", 1024, "", _CLIP_URL),
        takes_texts=True,
        licence="MIT, by OpenAI; trained on pictures and captions of the web",
    ),
    _CLIP_URL,
    408.3,
    "pictures by words: ImageNet top-1 59.6 % zero-shot",
    "da0baa37fb2211eee5729ab69ed587eb10d48f5b7076ceeed01552fc3d4cb4ee",
)

CATALOG = {
    entry.name: entry
    for entry in (
        CatalogEntry(_PACKAGED_SPEC, None, 22.4, "small, in the package, no download"),
        _torchvision("resnet18", 512, "f37072fd", 46.8, "69.8"),
        _torchvision("resnet34", 512, "b627a593", 87.3, "73.3"),
        _torchvision("resnet50", 2048, "0676ba61", 102.5, "76.1"),
        _torchvision("resnet50.v2", 2048, "11ad3fa6", 102.5, "80.9"),
        _torchvision("resnet101", 2048, "63fe2227", 178.8, "77.4"),
        _torchvision("resnet101.v2", 2048, "cd907fc2", 178.8, "81.9"),
        _torchvision("resnet152", 2048, "394f9c45", 241.6, "78.3"),
        _torchvision("resnet152.v2", 2048, "f82ba261", 241.7, "82.3"),
        _torchvision("wide_resnet50_2", 2048, "95faca4d", 138.2, "78.5"),
        _torchvision("wide_resnet50_2.v2", 2048, "9ba9bcbe", 276.0, "81.6"),
        _torchvision("wide_resnet101_2", 2048, "32ee1156", 254.7, "78.8"),
        _torchvision("wide_resnet101_2.v2", 2048, "d733dc28", 508.3, "82.5"),
        _torchvision("resnext50_32x4d", 2048, "7cdf4587", 100.4, "77.6"),
        _torchvision("resnext50_32x4d.v2", 2048, "1a0047aa", 100.5, "81.2"),
        _torchvision("resnext101_32x8d", 2048, "8ba56ff5", 356.1, "79.3"),
        _torchvision("resnext101_32x8d.v2", 2048, "110c445d", 356.2, "82.8"),
        _torchvision("resnext101_64x4d", 2048, "173b62eb", 334.8, "83.2"),
        _CLIP,
        _timm("resnet18d.ra2_in1k", 512, "resnet18d_ra2-48a79e06", 46.9),
        _timm("resnet34d.ra2_in1k", 512, "resnet34d_ra2-f8dcfcaf", 87.3),
        _timm("resnet50d.ra2_in1k", 2048, "resnet50d_ra2-464e36ba", 102.5),
        _timm("resnet101d.ra2_in1k", 2048, "resnet101d_ra2-2803ffab", 178.7),
        _timm("resnet152d.ra2_in1k", 2048, "resnet152d_ra2-5cac0439", 241.5),
        _timm("seresnet50.ra2_in1k", 2048, "seresnet50_ra_224-8efdb4bb", 112.6),
        _timm("seresnet152d.ra2_in1k", 2048, "seresnet152d_ra2-04464dd2", 268.0),
        _timm("seresnext50_32x4d.racm_in1k", 2048, "seresnext50_32x4d_racm-a304a460", 110.5),
        _timm("seresnext101_32x8d.ah_in1k", 2048, "seresnext101_32x8d_ah-e6bc4c0a", 375.1, "-tpu"),
    )
}
