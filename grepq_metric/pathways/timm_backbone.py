"""Any network of timm as a function from images to maps; timm itself, which is slow to import, loads when one is built."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from grepq_metric.errors import InputError, WeightsError

PREFIX = "timm/"
"""How the name of an architecture of timm begins in a config."""


class TimmBackbone(nn.Module):
    """Maps at the ends of the stages of a network of timm; of a transformer, those of its last blocks.

    Args:
        architecture: `PREFIX` and a name that ``timm.create_model`` takes, for example
            ``timm/deit3_small_patch16_224.fb_in22k_ft_in1k``.
        pretrained: whether timm fetches its values from the Hub.

    Attributes:
        network: timm's.
        channels: of the maps.
        stride: of the last map in pixels.

    Raises:
        InputError: timm has no such network, or it gives no maps.
        WeightsError: its values can't be had.
    """

    def __init__(self, architecture: str, pretrained: bool = False) -> None:
        super().__init__()
        import timm

        name = architecture.removeprefix(PREFIX)
        if not timm.is_model(name):
            raise InputError(f"timm has no network {name!r}: timm.list_models() names all")
        self.network = _created(name, pretrained)
        self.channels: tuple[int, ...] = tuple(self.network.feature_info.channels())
        self.stride: int = self.network.feature_info.reduction()[-1]
        config = timm.get_pretrained_cfg(name)
        self._mean: tuple[float, ...] = (0.5,) * 3 if config is None else tuple(config.mean)
        self._std: tuple[float, ...] = (0.5,) * 3 if config is None else tuple(config.std)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``(N, 3, H, W)`` in [0, 1] -> maps ``(N, c, h, w)``, the coarsest last."""
        mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (self._mean, self._std))
        return list(self.network((x - mean) / std))


def _created(name: str, pretrained: bool) -> Any:
    import timm

    # Transformers take images of any size only where they are asked to; other networks do not know these words.
    choices: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True, "dynamic_img_pad": True}, {"dynamic_img_size": True}, {})
    for options in choices:
        try:
            return timm.create_model(name, pretrained=pretrained, features_only=True, **options)
        except TypeError:
            continue
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            raise _refused(name, pretrained, error) from error
        except Exception as error:  # of a download: whatever the Hub's client raises
            if not pretrained:
                raise
            raise _refused(name, pretrained, error) from error
    raise InputError(f"timm's {name} gives no maps of its stages: choose another network")


def _refused(name: str, pretrained: bool, error: Exception) -> Exception:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if pretrained:
        return WeightsError(f"cannot have timm's {name} ({reason}): it is fetched from the Hub; set HF_ENDPOINT to a mirror")
    return InputError(f"timm's {name} gives no maps of its stages ({reason}): choose another network")
