"""The models that have a name; each is one record of architecture, weights and preprocessing."""

from __future__ import annotations

from dataclasses import dataclass

PACKAGED = "packaged"
AUTO = "auto"
AUTO_MODEL = "resnet50"

_IMAGENET_TERMS = (
    "trained on ImageNet, whose terms allow non-commercial research and education; "
    "torchvision publishes the weights under BSD-3-Clause"
)
_TINY_IMAGENET_TERMS = (
    "trained on Tiny ImageNet, a part of ImageNet, whose terms allow non-commercial research "
    "and education; see the model card"
)


@dataclass(frozen=True)
class CatalogEntry:
    """A named model. `url` is torchvision's, whose name ends in 8 hex digits of the sha256."""

    name: str
    architecture: str
    dim: int
    input_side: int
    megabytes: float
    licence: str
    url: str | None
    quality: str

    @property
    def file_name(self) -> str:
        """Return the name under which torch's hub cache keeps the download."""
        return "" if self.url is None else self.url.rpartition("/")[2]

    @property
    def sha256_prefix(self) -> str:
        """Return the first 8 hex digits of the download's sha256, as torchvision publishes it."""
        return self.file_name.removesuffix(".pth").rpartition("-")[2]


def _imagenet(
    architecture: str, dim: int, digits: str, megabytes: float, top1: str
) -> CatalogEntry:
    return CatalogEntry(
        name=architecture,
        architecture=architecture,
        dim=dim,
        input_side=224,
        megabytes=megabytes,
        licence=_IMAGENET_TERMS,
        url=f"https://download.pytorch.org/models/{architecture}-{digits}.pth",
        quality=f"ImageNet top-1 {top1} %",
    )


CATALOG = {
    entry.name: entry
    for entry in (
        CatalogEntry(
            name=PACKAGED,
            architecture="resnet18",
            dim=512,
            input_side=128,
            megabytes=22.4,
            licence=_TINY_IMAGENET_TERMS,
            url=None,
            quality="small, in the package, no download",
        ),
        _imagenet("resnet18", 512, "f37072fd", 46.8, "69.8"),
        _imagenet("resnet34", 512, "b627a593", 87.3, "73.3"),
        _imagenet("resnet50", 2048, "0676ba61", 102.5, "76.1"),
        _imagenet("resnet101", 2048, "63fe2227", 178.8, "77.4"),
        _imagenet("resnet152", 2048, "394f9c45", 241.6, "78.3"),
    )
}
