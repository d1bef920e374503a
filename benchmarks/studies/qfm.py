"""QFM-IQM, our reading: does noise from matched photos help, and do ratings by a teacher?

    python -m benchmarks.studies.qfm --opinions BIQ2021_DEV --unlabelled BIQ2021_UNLABELLED --work WORK --out OUT

The decoder of `grepq train qfm` on the frozen backbone of `grepq-sem` learns from 50, 200 or 800 labels: without noise, with
features of matched photos as noise, and with those of random photos, the control; the first two also with what an ensemble of
ridge regressions says of photos without labels. Beside them stands one ridge regression on the moments of the same tokens.
Same draws of labels and same seeds for all: 50 and 200 labels are drawn from one half of the photos and tested on the other,
800 from all, tested on the others. All trainings take the same number of steps.

Also measured, on the photos that were not drawn: the diagnosis of the paper. Of pairs whose features are close (the 5 % of
all pairs with the largest cosine), the share whose opinion scores are distant (by more than one standard deviation): for the
moments of the tokens, before, and for what the decoder hands to its head, after.

And what the packaged weights were made with, 5 members and matched noise, by cross-validation in five folds, beside the ridge
regression in the same folds.

Needs opinion scores (a folder with ``labels.csv``) and photos without, and takes about an hour on two cores. WORK gets tokens
(0.4 MB a photo); each training's figures are in ``draws.csv`` or ``folds.csv`` of --out at once, and a stopped run goes on.
``--report-only`` makes the report of the draws from that file; ``folds.csv`` holds predictions and needs --opinions.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t, wilcoxon
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from benchmarks.harness.agreement import plcc, srcc
from benchmarks.harness.protocols import Draw, new_head
from benchmarks.studies.few_labels import draws_of
from benchmarks.studies.opinions import Opinions, agreement, read_opinions
from benchmarks.studies.reporting import (
    Report,
    Row,
    measured,
    parse,
    read_report,
    read_rows,
    srcc_cell,
    study_parser,
    table,
    write_report,
    write_rows,
)
from grepq_metric import QFMIQM
from grepq_metric.heads import Labels
from grepq_metric.pathways import DecoderConfig
from grepq_metric.training.photos import PhotoList, photo_list
from grepq_metric.training.qfm import QFMTraining, start_of, teach, tokens_of
from grepq_metric.training.tokens import moments_of

STUDY = "qfm"
BUDGETS = (50, 200, 800)
"""Numbers of labels."""
DRAWS = 4
STEPS = 500
MEMBERS, FOLDS = 5, 5
"""Of the packaged weights, and of the cross-validation of what they were made with."""
CLOSE = 0.05
"""Share of all pairs that count as close."""
DIGITS = 5
RIDGE = "ridge regression on moments"
"""The variant without a decoder."""
NOISELESS, MATCHED = "decoder", "decoder, matched noise"
PACKAGED = f"{MEMBERS} decoders, matched noise"


@dataclass(frozen=True)
class Variant:
    """What is trained.

    Attributes:
        noise: see `QFMTraining`.
        distilled: whether a teacher's ratings of photos without labels take part.
    """

    noise: str
    distilled: bool = False


VARIANTS = {
    NOISELESS: Variant("none"),
    MATCHED: Variant("matched"),
    "decoder, random noise": Variant("random"),
    "decoder, distilled": Variant("none", True),
    "decoder, matched noise, distilled": Variant("matched", True),
}


def distant_share(features: np.ndarray, mos: np.ndarray) -> float:
    """Share of close pairs whose opinion scores are distant.

    Args:
        features: ``(N, C)``; they are standardised, and the pairs with the largest cosine are the close ones.
        mos: ``(N,)``.

    Returns:
        In [0, 1].
    """
    z = StandardScaler().fit_transform(features)
    z /= np.linalg.norm(z, axis=1, keepdims=True).clip(1e-12)
    first, second = np.triu_indices(len(mos), 1)
    near = (z @ z.T)[first, second]
    close = near >= np.quantile(near, 1 - CLOSE)
    return float((np.abs(mos[first] - mos[second]) > mos.std())[close].mean())


@dataclass(frozen=True)
class Rooms:
    """Where a run reads and writes.

    Attributes:
        opinions: photos with labels.
        unlabelled: photos without.
        work: folder for tokens and runs.
    """

    opinions: Opinions
    unlabelled: PhotoList
    work: Path

    @cached_property
    def tokens(self) -> list[torch.Tensor]:
        """Of the photos with labels, ``(T, C)`` each."""
        photos = PhotoList.of_files(list(self.opinions.files.values()), self.opinions.name)
        return tokens_of(photos, self.work / "tokens", QFMTraining())

    @cached_property
    def moments(self) -> np.ndarray:
        """Of these tokens, ``(N, 2 C)``."""
        return np.stack([moments_of(one.float()).numpy() for one in self.tokens])


def trained(rooms: Rooms, variant: Variant, draw: Draw, members: int = 1) -> QFMIQM:
    """A model that has learned from the labels of a draw; the draw's number is the seed."""
    shape = DecoderConfig(members=members)
    training = QFMTraining(steps=STEPS, seed=draw.number, noise=variant.noise, shape=shape)
    model, origin = start_of(None, training, STUDY)
    photos, mos = list(rooms.opinions.files.values()), rooms.opinions.mos
    labels = Labels([photos[i] for i in draw.train], mos[draw.train], None, 0, ",")
    others, out = rooms.unlabelled if variant.distilled else None, rooms.work / "run"
    shutil.rmtree(out, ignore_errors=True)
    return teach(model, origin, labels, others, out, training, workers=0, cache=rooms.work / "tokens")[0]


@torch.inference_mode()
def told(model: QFMIQM, tokens: Sequence[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """What a decoder makes of the tokens of photos, ``(T, C)`` each: logits ``(N,)`` and features ``(N, width)``."""
    found = [model.decoder.read(one.unsqueeze(0).float()) for one in tokens]
    return torch.cat([logits for _, logits in found]).numpy(), torch.cat([read for read, _ in found]).numpy()


def measured_draws(rooms: Rooms, done: list[Row]) -> Iterator[Row]:
    """A row for each variant and draw that is not among those that are done."""
    tokens, moments, mos = rooms.tokens, rooms.moments, rooms.opinions.mos
    known = {(row["variant"], row["labels"], row["draw"]) for row in done}
    for budget in BUDGETS:
        for draw in draws_of(len(mos), budget)[:DRAWS]:
            before = distant_share(moments[draw.test], mos[draw.test])
            for name, variant in {RIDGE: None, **VARIANTS}.items():
                if (name, budget, draw.number) in known:
                    continue
                if variant is None:
                    head = new_head().fit(moments[draw.train], mos[draw.train])
                    found, after = head.predict(moments[draw.test]), before
                else:
                    found, features = told(trained(rooms, variant, draw), [tokens[i] for i in draw.test])
                    after = distant_share(features, mos[draw.test])
                figures = {"srcc": srcc(found, mos[draw.test]), "plcc": plcc(found, mos[draw.test])}
                figures |= {"before": before, "after": after}
                rounded = {key: round(float(value), DIGITS) for key, value in figures.items()}
                yield {"variant": name, "labels": budget, "draw": draw.number, **rounded}


def measured_folds(rooms: Rooms, done: list[Row]) -> Iterator[list[Row]]:
    """Rows of each fold that is not among those that are done: what was told of each of its photos."""
    tokens, moments, mos = rooms.tokens, rooms.moments, rooms.opinions.mos
    known, names = {row["fold"] for row in done}, list(rooms.opinions.files)
    for fold, (train, test) in enumerate(KFold(FOLDS, shuffle=True, random_state=0).split(mos)):
        if fold in known:
            continue
        logits = told(trained(rooms, VARIANTS[MATCHED], Draw(None, fold, train, test), MEMBERS), [tokens[i] for i in test])[0]
        ridge = new_head().fit(moments[train], mos[train]).predict(moments[test])
        told_of = zip(test, logits, ridge, strict=True)
        yield [{"image": names[i], "fold": fold, PACKAGED: float(a), RIDGE: float(b)} for i, a, b in told_of]


def folded(rows: list[Row], opinions: Opinions) -> list[Row]:
    """Agreement over all folds and on each subset: the report's table ``folds``; predictions of a fold are standardised."""
    order = {name: i for i, name in enumerate(opinions.files)}
    found: list[Row] = []
    for name in (PACKAGED, RIDGE):
        predictions = np.full(len(order), np.nan)
        for fold in range(FOLDS):
            part = [row for row in rows if row["fold"] == fold]
            values = np.array([float(row[name]) for row in part])
            predictions[[order[str(row["image"])] for row in part]] = (values - values.mean()) / values.std()
        found.append({"table": "folds", "variant": name, **agreement(predictions, opinions)})
    return found


def summary(rows: list[Row]) -> list[Row]:
    """Means over the draws, and the difference to the decoder without noise and distillation, with its interval of 95 %."""
    found: list[Row] = []
    for budget in dict.fromkeys(row["labels"] for row in rows):
        part = [row for row in rows if row["labels"] == budget]
        base = {row["draw"]: float(row["srcc"]) for row in part if row["variant"] == NOISELESS}
        for name in dict.fromkeys(row["variant"] for row in part):
            own = [row for row in part if row["variant"] == name]
            line: Row = {"table": "accuracy", "variant": name, "labels": budget, "draws": len(own)}
            line |= {key: float(np.mean([row[key] for row in own])) for key in ("srcc", "plcc", "before", "after")}
            gains = np.array([float(row["srcc"]) - base[row["draw"]] for row in own if row["draw"] in base])
            if name != NOISELESS and len(gains) > 1:
                half = half_width(gains)
                line |= {"gain": float(gains.mean()), "gain_low": gains.mean() - half, "gain_high": gains.mean() + half}
            found.append(line)
    return found


def half_width(values: np.ndarray) -> float:
    """Half of the interval of 95 % of the mean of few values, by Student's t."""
    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def over_all(rows: list[Row]) -> list[Row]:
    """Each variant against the decoder alone over all draws of all budgets, paired: the report's table ``paired``."""
    found: list[Row] = []
    base = {(row["labels"], row["draw"]): float(row["srcc"]) for row in rows if row["variant"] == NOISELESS}
    for name in dict.fromkeys(row["variant"] for row in rows if row["variant"] != NOISELESS):
        gains = np.array([float(r["srcc"]) - base[r["labels"], r["draw"]] for r in rows if r["variant"] == name])
        found.append(
            {
                "table": "paired",
                "variant": name,
                "pairs": len(gains),
                "gain": float(gains.mean()),
                "better": int((gains > 0).sum()),
                "p": float(wilcoxon(gains).pvalue) if gains.any() else 1.0,
            }
        )
    return found


def markdown(report: Report) -> list[str]:
    """Three tables: by number of labels, paired over all draws, and by cross-validation."""
    lines = [
        "SRCC on photos that were not drawn, mean of the draws; difference to the decoder alone with an interval of 95 %.",
        "",
    ]
    rows = report.table("accuracy")
    cells = [
        [
            str(row["labels"]),
            str(row["variant"]),
            f"{row['srcc']:.3f}",
            f"{row['plcc']:.3f}",
            f"{row['gain']:+.3f} ({row['gain_low']:+.3f} to {row['gain_high']:+.3f})" if "gain" in row else "",
            f"{row['before']:.3f}",
            f"{row['after']:.3f}",
        ]
        for row in rows
    ]
    header = [
        "labels",
        "variant",
        "SRCC",
        "PLCC",
        "difference",
        "distant scores among close pairs: moments",
        "the variant's features",
    ]
    lines += [*table(header, cells), "", "Paired over all draws (Wilcoxon's signed ranks).", ""]
    lines += table(
        ["variant", "difference", "better", "p"],
        (
            [str(row["variant"]), f"{row['gain']:+.4f}", f"{row['better']} of {row['pairs']}", f"{row['p']:.3f}"]
            for row in report.table("paired")
        ),
    )
    folds = report.table("folds")
    subsets = [key for key in folds[0] if key.startswith("SRCC on")]
    lines += ["", f"Cross-validation on all labels in {FOLDS} folds.", ""]
    return lines + table(
        ["variant", "SRCC (95 % interval)", *(key.removeprefix("SRCC ") for key in subsets)],
        ([str(row["variant"]), srcc_cell(row), *(f"{row[key]:.3f}" for key in subsets)] for row in folds),
    )


def measure(rooms: Rooms, out: Path) -> Report:
    """Train and test all variants; each row goes to ``draws.csv`` in `out` at once."""
    logging.getLogger("grepq_metric.training").setLevel(logging.WARNING)
    folds_path = out / "folds.csv"
    folds = read_rows(folds_path, text=("image",)) if folds_path.exists() else []
    for fold in measured_folds(rooms, folds):
        folds += fold
        write_rows(folds_path, folds)
    path = out / "draws.csv"
    rows = read_rows(path, text=("variant",)) if path.exists() else []
    for row in measured_draws(rooms, rows):
        rows.append(row)
        write_rows(path, rows)
    opinions = rooms.opinions
    data: Row = {"name": opinions.name, "id": opinions.id, "images": len(opinions.mos), "unlabelled": len(rooms.unlabelled)}
    origin = start_of(None, QFMTraining(), STUDY)[1]
    return measured(STUDY, f"backbone of {origin}", data, [*summary(rows), *over_all(rows), *folded(folds, opinions)])


def again(out: Path) -> Report:
    """The report in `out` with the figures of the draws computed anew from the rows beside it."""
    rows = read_rows(out / "draws.csv", text=("variant",))
    report = read_report(out, STUDY)
    return replace(report, rows=[*summary(rows), *over_all(rows), *report.table("folds")])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or only report, and write the report to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("--opinions", type=Path, help="folder with labels.csv")
    parser.add_argument("--unlabelled", type=Path, help="folder of photos without labels")
    parser.add_argument("--work", type=Path, help="folder for tokens, which runs share")
    given = parse(parser, arguments, needed=("opinions", "unlabelled", "work"))
    if given.report_only:
        report = again(given.out)
    else:
        report = measure(Rooms(read_opinions(given.opinions), photo_list(given.unlabelled), given.work), given.out)
    write_report(report, given.out, markdown)


if __name__ == "__main__":
    main()
