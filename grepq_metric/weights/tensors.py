"""Files of tensors, and tensors into modules."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from grepq_metric.errors import WeightsError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_tensors(module: torch.nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy tensors into a module after checking that names, types, shapes and values are right.

    Args:
        module: where they go; one on the meta device gets memory only after the check, on the CPU.
        tensors: values by the names of the module's state dict.
        source: where they are from, for messages.

    Raises:
        WeightsError: a tensor is missing, foreign, of another shape or type, holds NaN or infinity, or is a negative variance;
            the message names it.
    """
    odd = sorted(str(key) for key, value in tensors.items() if not isinstance(value, Tensor))
    if odd:
        raise WeightsError(f"{source} does not fit: it holds {len(odd)} entries that are no tensors ({', '.join(odd[:3])})")
    expected = module.state_dict()
    both = sorted(set(expected) & set(tensors))
    plain = [k for k in both if tensors[k].layout == torch.strided and not tensors[k].is_meta]
    shaped = [k for k in plain if expected[k].shape == tensors[k].shape]
    typed = [k for k in shaped if _same_kind(expected[k], tensors[k])]
    problems = {
        "missing": sorted(set(expected) - set(tensors)),
        "foreign": sorted(set(tensors) - set(expected)),
        "without plain values": sorted(set(both) - set(plain)),
        "of another shape": sorted(set(plain) - set(shaped)),
        "of another type": [f"{k} {tensors[k].dtype}" for k in sorted(set(shaped) - set(typed))],
        "with NaN or infinity": [k for k in typed if not tensors[k].to(expected[k].dtype).isfinite().all()],
        "with a negative variance": [k for k in typed if k.endswith("running_var") and bool((tensors[k] < 0).any())],
    }
    found = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if keys[3:] else ''})" for what, keys in problems.items() if keys
    ]
    if found:
        raise WeightsError(f"{source} does not fit: tensors {'; '.join(found)}")
    if any(value.is_meta for value in expected.values()):  # assigned, since to_empty() waits half a second for sympy
        own = {key: value.to("cpu", expected[key].dtype, copy=True).contiguous() for key, value in tensors.items()}
        module.load_state_dict(own, assign=True)
    else:
        module.load_state_dict(dict(tensors))


def rounded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with the values that float16 keeps of them, in float32; those of integers as they are."""
    return {key: value.half().float() if value.is_floating_point() else value for key, value in tensors.items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or a torch pickle of a state dict without running code from it.

    Raises:
        WeightsError: the file is damaged, can't be read, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or truncated ({error}): delete it and fetch it again") from error
    except pickle.UnpicklingError as error:  # whose text advises to run the code
        raise WeightsError(f"{path} is damaged or holds more than tensors, and is not loaded") from error
    except Exception as error:  # a damaged pickle raises what it likes, from struct.error to AssertionError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"cannot read {path}: {reason}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds a {type(state).__name__}, expected a dictionary of tensors")
    return state


def _same_kind(expected: Tensor, value: Tensor) -> bool:
    """Floating point for floating point, of a type that keeps its meaning, and integers for integers."""
    if expected.is_floating_point():
        return value.dtype in _FLOATS
    return not value.is_floating_point() and not value.is_complex()
