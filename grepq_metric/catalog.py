"""What the built-in names mean. Standard library only: the pyiqa hook, the command line and the benchmarks read it.

A name means its newest tag; a tag means one set of values for ever. New weights get a new tag and a line in the CHANGELOG that
says how far scores moved.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HubFile:
    """One file of one commit of a Hub repository.

    Attributes:
        repository: ``user/name``.
        name: of the file.
        revision: commit.
        sha256: of the content.
        size: in bytes.
        licence: its terms.
    """

    repository: str
    name: str
    revision: str
    sha256: str
    size: int
    licence: str


@dataclass(frozen=True)
class Entry:
    """One set of weights that has a name.

    Attributes:
        name: as in `GRepQ.from_pretrained` and ``pyiqa.create_metric``.
        tag: name and version, for example ``grepq-ll.8690ed2c``; behind the dot stand the weights' id, and for CLIP the first
            digits of its file's SHA-256.
        pathways: ``low``, ``high`` or both.
        score_range: least and greatest possible score.
        source: what it is, in a line.
        licence: its terms.
        date: when it was made.
        folder: its folder in this package's ``assets``; the low-level part of a joined metric.
        sha256: of ``model.safetensors`` in that folder.
        clip: the CLIP that its high-level part is made of, fetched at first use; None: no network.
    """

    name: str
    tag: str
    pathways: tuple[str, ...]
    score_range: tuple[float, float]
    source: str
    licence: str
    date: str
    folder: str | None = None
    sha256: str | None = None
    clip: HubFile | None = None


# Revision and hash as three independent projects pin them (searched 2026-11-24); the file itself could not be fetched here.
CLIP_RN50 = HubFile(
    repository="timm/resnet50_clip.openai",
    name="open_clip_model.safetensors",
    revision="ec3d92cf63a5f9d591f0d611b736895966c73076",
    sha256="da0baa37fb2211eee5729ab69ed587eb10d48f5b7076ceeed01552fc3d4cb4ee",
    size=408_291_932,
    licence="MIT",
)
"""OpenAI's CLIP RN50 in open_clip's layout."""

_LOW_SHA256 = "985a7be5747a208310e907bd0bcfab9ca5dd2263ab6923e3a7602dcad1c1236b"
ENTRIES = (
    Entry(
        name="grepq-ll",
        tag="grepq-ll.8690ed2c",
        pathways=("low",),
        score_range=(0.0, 0.5),
        source="low-level encoder trained by this project, in the package",
        licence="MIT",
        date="2026-11-22",
        folder="grepq-ll",
        sha256=_LOW_SHA256,
    ),
    Entry(
        name="grepq-hl",
        tag="grepq-hl.da0baa37",
        pathways=("high",),
        score_range=(0.0, 1.0),
        source="OpenAI's CLIP RN50 from the Hub, not fine-tuned",
        licence="MIT (CLIP)",
        date="2026-11-24",
        clip=CLIP_RN50,
    ),
    Entry(
        name="grepq",
        tag="grepq.8690ed2c-da0baa37",
        pathways=("low", "high"),
        score_range=(0.0, 1.5),
        source="grepq-ll.8690ed2c joined with grepq-hl.da0baa37",
        licence="MIT; MIT (CLIP)",
        date="2026-11-24",
        clip=CLIP_RN50,
        folder="grepq-ll",
        sha256=_LOW_SHA256,
    ),
)
"""All tags that this release can load, the newest of each name first."""


def names() -> list[str]:
    """The built-in names, each once."""
    return list(dict.fromkeys(entry.name for entry in ENTRIES))


def find(name: str) -> Entry | None:
    """The entry of a name (its newest tag) or of a tag; None if there is none."""
    return next((entry for entry in ENTRIES if name in (entry.name, entry.tag)), None)
