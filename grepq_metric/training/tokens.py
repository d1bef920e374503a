"""Tokens of training photos: computed once where the backbone stays as it is, and kept on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from grepq_metric.errors import InputError, TrainingError
from grepq_metric.files import disk_error, whole_file
from grepq_metric.inputs import pad_to
from grepq_metric.pathways import DecoderPathway
from grepq_metric.training.distributed import World
from grepq_metric.training.photos import PhotoList


class Tokens:
    """Tokens of a list of photos, ``(T, C)`` float16 each, and their moments.

    Args:
        photos: the photos.
        folder: where they are kept, keyed by the photo's content and `key`; runs may share it.
        key: of the backbone and the shape of tokens.
    """

    def __init__(self, photos: PhotoList, folder: Path, key: str) -> None:
        self.photos, self.folder, self.key = photos, folder, key
        self._names: dict[int, str] = {}

    def load(self, i: int) -> np.ndarray:
        """Tokens of photo `i`, ``(T, C)``, mapped from disk.

        Raises:
            InputError: the photo can't be read.
            OSError: its tokens are not there.
        """
        name = self._names.get(i)
        if name is None:
            name = self._names[i] = self._name(self.photos.read(i))
        try:
            return np.load(self.folder / name[:2] / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise OSError(f"the tokens of {self.photos.name(i)} in {self.folder} are damaged: delete that folder") from error

    @torch.inference_mode()
    def compute(self, pathway: DecoderPathway, world: World, least_side: int) -> Tensor:
        """Compute what is not there yet, shared between the processes, and tell the moments of all photos.

        Args:
            pathway: with a backbone.
            world: the processes.
            least_side: photos are padded to it, as for a score.

        Returns:
            ``(N, 2 C)`` float32, mean and standard deviation of the tokens of each photo; NaN where it can't be used.

        Raises:
            OSError: the folder can't be written.
            TrainingError: none of the photos can be used.
        """
        mine = range(world.rank, len(self.photos), world.size)
        for i in tqdm(mine, "tokens", unit="photo", disable=not world.leads):
            self._compute(i, pathway, world, least_side)
        world.barrier()
        rows = [self._moments(i) for i in range(len(self.photos))]
        width = next((len(row) for row in rows if row is not None), 0)
        if not width:
            raise TrainingError(f"none of the {len(rows)} photos of {', '.join(self.photos.sources)} can be used")
        return torch.stack([torch.full((width,), torch.nan) if row is None else row for row in rows])

    def _compute(self, i: int, pathway: DecoderPathway, world: World, least_side: int) -> None:
        try:
            data = self.photos.read(i)
            name = self._names[i] = self._name(data)
            path = self.folder / name[:2] / f"{name}.npy"
            if path.exists():
                return
            image = self.photos.decode(i, data)
        except InputError:  # it is skipped, and named, when its turn comes
            return
        x = pad_to(image.unsqueeze(0).to(world.device).expand(-1, 3, -1, -1), least_side)
        with torch.autocast(world.device.type, torch.bfloat16):
            found = pathway.tokens(x)[0].flatten(1).mT
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as part:
                np.save(part, found.half().cpu().numpy())
        except OSError as error:
            raise disk_error(path, error) from error

    def _moments(self, i: int) -> Tensor | None:
        try:
            found = torch.from_numpy(self.load(i).astype(np.float32))
        except (InputError, FileNotFoundError):  # it could not be read, or not be decoded
            return None
        return moments_of(found)

    def _name(self, data: bytes) -> str:
        return hashlib.sha256(self.key.encode() + hashlib.sha256(data).digest()).hexdigest()[:32]


def moments_of(tokens: Tensor) -> Tensor:
    """Mean and standard deviation of the tokens of a photo: ``(T, C)`` -> ``(2 C,)``."""
    deviation, mean = torch.std_mean(tokens, 0, correction=0)
    return torch.cat([mean, deviation])


def chosen_cells(tokens: np.ndarray, count: int, rng: np.random.Generator) -> Tensor:
    """Some tokens of a photo, drawn at random: ``(T, C)`` -> ``(count, C)`` float32; a small photo's come more than once."""
    chosen = rng.choice(len(tokens), count, replace=len(tokens) < count)
    return torch.from_numpy(tokens[np.sort(chosen)].astype(np.float32))
