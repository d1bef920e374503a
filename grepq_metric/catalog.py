"""What the built-in names mean. Standard library only: the pyiqa hook, the command line and the benchmarks read it.

A name means its newest tag; a tag means one set of values for ever. New weights get a new tag and a line in the CHANGELOG that
says how far scores moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
class DriveFolder:
    """A public folder of Google Drive. What its files hold is not pinned: whoever fetches them records their SHA-256.

    Attributes:
        id: of the folder.
        files: their names, by what they are.
        terms: of the files.
    """

    id: str
    files: Mapping[str, str]
    terms: str

    @property
    def address(self) -> str:
        """Of its page."""
        return f"https://drive.google.com/drive/folders/{self.id}"


@dataclass(frozen=True)
class Packaged:
    """Weights in this package.

    Attributes:
        folder: their folder in the package's ``assets``.
        sha256: of ``model.safetensors`` in it.
    """

    folder: str
    sha256: str


@dataclass(frozen=True)
class Entry:
    """One set of weights that has a name.

    Attributes:
        name: as in `GRepQ.from_pretrained` and ``pyiqa.create_metric``.
        tag: name and version, for example ``grepq-ll.8690ed2c``; behind the dot stand the weights' id, and for CLIP the first
            digits of its file's SHA-256.
        pathways: some of ``low``, ``semantic`` and ``high``; ``decoder`` of QFM-IQM, which is another metric.
        score_range: least and greatest possible score.
        source: what it is, in a line.
        licence: its terms.
        date: when it was made.
        packaged: its parts in this package, one for each of the first pathways; they are joined in memory.
        constants: of a joined metric, in place of those of its parts.
        clip: the CLIP that its high-level part is made of, fetched at first use.
        released: the files that it is converted from; None: it needs no conversion.
        hub: ``config.json`` and ``model.safetensors`` of one commit, fetched at first use; such an entry is what `grepq
            publish` prints, and has neither `packaged` nor `clip`.
    """

    name: str
    tag: str
    pathways: tuple[str, ...]
    score_range: tuple[float, float]
    source: str
    licence: str
    date: str
    packaged: tuple[Packaged, ...] = ()
    constants: Mapping[str, float] = field(default_factory=dict)
    clip: HubFile | None = None
    released: DriveFolder | None = None
    hub: tuple[HubFile, ...] = ()

    @property
    def download(self) -> int:
        """Bytes that the first use fetches from the Hub; 0: it needs no network."""
        return sum(file.size for file in (*self.hub, *([] if self.clip is None else [self.clip])))

    @property
    def note(self) -> str:
        """What whoever quotes its scores must know, a sentence; empty: nothing."""
        return "" if self.clip is None or self.released is not None else PLAIN_CLIP_NOTE


PLAIN_CLIP = "OpenAI CLIP RN50, not fine-tuned"
"""How the record of a high-level pathway begins, ``provenance["high"]``, that is CLIP as OpenAI released it."""
PLAIN_CLIP_NOTE = (
    "its high-level pathway is OpenAI's CLIP as it is, and not the network that GRepQ's authors fine-tuned: do not quote its "
    "scores as those of their paper. `grepq convert` makes weights of the authors' files"
)
"""What is said of such weights wherever their scores could be quoted."""
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

DEFAULT = "grepq-sem"
"""Name of the metric that is meant where none is given."""
_LOW = Packaged("grepq-ll", "2cc374efcc1283a585a06e0d096d9106c98db919a8b5168ffbc20d812a62aa46")
_SEMANTIC = Packaged("grepq-sem", "86eea86b864451f3bbde2228675e62b4526b72a54604526980d394603da381c5")
_DECODER = Packaged("qfm-iqm", "208af6525f99516c8e88e8980596792532726adab7d9ba1691f173f4a9460cc3")
ENTRIES = (
    Entry(
        name="grepq-sem",
        tag="grepq-sem.9dee7f58",
        pathways=("semantic",),
        score_range=(0.0, 1.0),
        source="ImageNet's EfficientNet-Lite2, tuned, and a head, in the package",
        licence="MIT; Apache-2.0 (EfficientNet-Lite2)",
        date="2026-11-25",
        packaged=(_SEMANTIC,),
    ),
    Entry(
        name="grepq-lite",
        tag="grepq-lite.35a79c9b",
        pathways=("low", "semantic"),
        score_range=(0.0, 1.5),
        source="grepq-ll.8690ed2c joined with grepq-sem.9dee7f58",
        licence="MIT; Apache-2.0 (EfficientNet-Lite2)",
        date="2026-11-25",
        packaged=(_LOW, _SEMANTIC),
        constants={"distance_scale": 11.0},  # python -m benchmarks.studies.fusion
    ),
    Entry(
        name="grepq-ll",
        tag="grepq-ll.8690ed2c",
        pathways=("low",),
        score_range=(0.0, 0.5),
        source="low-level encoder trained by this project, in the package",
        licence="MIT",
        date="2026-11-22",
        packaged=(_LOW,),
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
        packaged=(_LOW,),
        clip=CLIP_RN50,
    ),
    Entry(
        name="qfm-iqm",
        tag="qfm-iqm.d5530a1f",
        pathways=("decoder",),
        score_range=(0.0, 1.0),
        source="QFM-IQM, our reading, of 1,000 opinion scores, on the network of grepq-sem.9dee7f58",
        licence="MIT; Apache-2.0 (EfficientNet-Lite2); the opinion scores are BIQ2021's",
        date="2026-11-29",
        packaged=(_DECODER,),
    ),
)
"""All tags that this release can load, the newest of each name first."""
AUTHORS_FILES = DriveFolder(
    id="1wLpdN6TNezur_0_NF7XgmBMyWcSxH5eX",
    files={
        "low": "low_level_model_weights.tar",
        "high": "high_level_model_weights.pth",
        "pristine": "pristine_patches_096_0.75_0.80.hdf5",
    },
    terms="the authors' code (https://github.com/suhas-srinath/GRepQ) is MIT; the files carry no statement of their own",
)
"""What GRepQ's authors released."""
AUTHORS = Entry(
    name="grepq-authors",
    tag="grepq-authors",
    pathways=("low", "high"),
    score_range=(0.0, 1.5),
    source="the published method: the weights that GRepQ's authors released, converted on this machine",
    licence="not stated; MIT (the authors' code); MIT (CLIP, for its text tower)",
    date="",
    clip=CLIP_RN50,
    released=AUTHORS_FILES,
)
"""The weights that ``grepq convert`` makes. No tag names their values: this project never had the files."""
AUTHORS_ORIGIN = "converted from the files that GRepQ's authors released (https://github.com/suhas-srinath/GRepQ)"
"""The record of such weights, ``provenance["origin"]``."""


def names() -> list[str]:
    """The built-in names, each once; not `AUTHORS`, which must be converted first."""
    return list(dict.fromkeys(entry.name for entry in ENTRIES))


def known_names() -> list[str]:
    """The built-in names and that of `AUTHORS`: all that may be given, for messages."""
    return [*names(), AUTHORS.name]


def find(name: str) -> Entry | None:
    """The entry of a name (its newest tag) or of a tag, or `AUTHORS`; None if there is none."""
    return next((entry for entry in (*ENTRIES, AUTHORS) if name in (entry.name, entry.tag)), None)


def backbones() -> list[str]:
    """Tags of the weights in this package whose semantic pathway has a backbone that others may name as theirs."""
    return [entry.tag for entry in ENTRIES if "semantic" in entry.pathways and not entry.download]


@dataclass(frozen=True)
class HeadEntry:
    """A head in this package: ``assets/heads/NAME.safetensors``, fitted by ``grepq fit``.

    Attributes:
        name: as in ``grepq score --head`` and `GRepQRegressor.load`.
        metric: name of the weights that it belongs to.
        source: what it was fitted to, in a line; more in ``assets/heads/NAME.md``.
        licence: its terms.
    """

    name: str
    metric: str
    source: str
    licence: str


HEADS = (
    HeadEntry(
        name="biq2021",
        metric="grepq-lite",
        source="1,000 opinion scores of BIQ2021 (Ahmed and Asif, 2022), from 0 to 1, 30 observers in a laboratory",
        licence="MIT; the opinion scores are BIQ2021's",
    ),
)
"""All heads in this package."""


def find_head(name: str) -> HeadEntry | None:
    """The head of a name; None if there is none."""
    return next((entry for entry in HEADS if entry.name == name), None)
