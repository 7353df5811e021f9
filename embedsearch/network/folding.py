"""BatchNorm folded into the convolutions before it: the same function in fewer kernels."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batchnorm(network: nn.Module) -> None:
    """Fold, in place, every BatchNorm that follows a convolution. For networks in eval mode.

    Children are visited in the order of their definition, which in a residual network is the order
    of their calls.
    """
    for module in list(network.modules()):
        before: tuple[str, nn.Module] | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and before is not None:
                parent, conv_name, conv = _last_convolution(module, *before)
                if conv is not None:
                    setattr(parent, conv_name, fuse_conv_bn_eval(conv, child))
                    setattr(module, name, nn.Identity())
            before = (name, child)


def _last_convolution(
    parent: nn.Module, name: str, child: nn.Module
) -> tuple[nn.Module, str, nn.Conv2d | None]:
    """Return the convolution that `child` is or ends with, and its parent."""
    if isinstance(child, nn.Sequential) and len(child):  # the stem of ResNet-D
        return _last_convolution(child, str(len(child) - 1), child[-1])
    return parent, name, child if isinstance(child, nn.Conv2d) else None
