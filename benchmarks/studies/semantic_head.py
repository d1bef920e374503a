"""What does each choice buy by which the head of the semantic pathway is taught? One change at a time.

    python -m benchmarks.studies.semantic_head --run FOLDER --opinions BIQ2021_DEV --out benchmarks/results/semantic_head

FOLDER is what ``grepq train semantic`` left: its checkpoint holds the sums of all samples, of which every head here is fitted
in a second. Reported are, for each, the SRCC with opinion scores (on all photos and on each subset, where ``labels.csv`` has a
column ``subset``), and what ``benchmarks.studies.synthetic`` reports: the median and the lowest SRCC with the severity over 26
types of distortion, and the SRCC with FSIM of all versions pooled. No head is fitted to opinion scores.

Needs albumentations and scikit-image, and takes about ten minutes on two cores. All scores are in ``opinions.csv`` and
``synthetic.csv``, from which ``--report-only`` makes the report in a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.harness.toy import references
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
from benchmarks.studies.synthetic import measure, overall, summary
from grepq_metric import GRepQ, read_image
from grepq_metric.training.semantic import Sums

STUDY = "semantic_head"
PACKAGED = "as packaged"
DIGITS = 4
"""Behind the point, of the logits that are kept."""
ALONE = 1e6
"""Weight of a target beside which the other one does not count."""

Linear = tuple[Tensor, Tensor]
"""Coefficients ``(C,)`` and intercept."""


def read_sums(run: Path) -> Sums:
    """The sums that a training has left.

    Raises:
        FileNotFoundError: there are none.
    """
    checkpoint = run / "training" / "checkpoint.pt"
    if not checkpoint.is_file():
        raise FileNotFoundError(f"no checkpoint at {checkpoint}: train with grepq train semantic --out {run}")
    state = torch.load(checkpoint, weights_only=True)
    targets = 1 + len(state["settings"]["teachers"])
    sources, width = state["sums"]["totals"].shape
    sums = Sums(sources, width - targets, targets)
    sums.load_state_dict(state["sums"])
    return sums


def of_sources(sums: Sums, chosen: Sequence[int]) -> Sums:
    """The sums of some sources."""
    part = Sums(len(chosen), sums.features, sums.totals.shape[1] - sums.features)
    part.load_state_dict({name: value[list(chosen)] for name, value in sums.state_dict().items()})
    return part


def as_one_source(sums: Sums) -> Sums:
    """The sums, with all photos as one source."""
    joined = Sums(1, sums.features, sums.totals.shape[1] - sums.features)
    joined.load_state_dict({name: value.sum(0, keepdim=True) for name, value in sums.state_dict().items()})
    return joined


def of_features(sums: Sums, columns: Tensor, penalty: float) -> Linear:
    """A head of some features; the coefficients of the others are 0."""
    part = Sums(len(sums.counts), len(columns), sums.totals.shape[1] - sums.features)
    kept = torch.cat([columns, torch.arange(sums.features, sums.totals.shape[1])])
    totals, products = sums.totals[:, kept], sums.products[:, kept][:, :, kept]
    part.load_state_dict({"counts": sums.counts, "totals": totals, "products": products})
    coefficients, intercept = part.fit(penalty, 1.0)
    return torch.zeros(sums.features, dtype=torch.float64).index_copy(0, columns, coefficients), intercept


def heads(sums: Sums, widths: Sequence[int], penalty: float, undistorted: float) -> dict[str, Linear]:
    """The heads that are compared, by name.

    Args:
        sums: of a training run.
        widths: features of each stage.
        penalty: that of the packaged head.
        undistorted: that of the packaged head.
    """
    ends = np.cumsum([0, *widths]).tolist()
    stages = [torch.arange(start, end) for start, end in pairwise(ends)]
    found = {
        PACKAGED: sums.fit(penalty, undistorted),
        "taught only whether undistorted": sums.fit(penalty, ALONE),
        "taught only how slight": sums.fit(penalty, 0.0),
        "ten times the penalty": sums.fit(penalty * 10, undistorted),
        "stride 16 alone": of_features(sums, stages[3], penalty),
        "stride 32 alone": of_features(sums, stages[4], penalty),
        "without stride 32": of_features(sums, torch.cat(stages[:4]), penalty),
    }
    if len(sums.counts) > 1:
        found["sources not centred on their own"] = as_one_source(sums).fit(penalty, undistorted)
        for i in range(len(sums.counts)):
            found[f"source {i + 1} alone"] = of_sources(sums, [i]).fit(penalty, undistorted)
    return found


@torch.inference_mode()
def score_opinions(model: GRepQ, linear: dict[str, Linear], opinions: Opinions) -> list[Row]:
    """A row for each photo with the logit of each head."""
    rows: list[Row] = []
    for name, path in tqdm(opinions.files.items(), desc="opinions", unit="photo"):
        features = model.features(read_image(path).unsqueeze(0), "semantic")[0].double()
        rows.append({"image": name, **{head: round((features @ c + b).item(), DIGITS) for head, (c, b) in linear.items()}})
    return rows


def scorers(model: GRepQ, linear: dict[str, Linear]) -> dict[str, Callable[[Tensor], float]]:
    """A score for each head; the features of the last image are kept, since all heads are asked about it in turn."""
    last: list[Tensor] = []

    def score(x: Tensor, head: Linear) -> float:
        if not last or last[0] is not x:
            last[:] = [x, model.features(x, "semantic")[0].double()]
        return round((last[1] @ head[0] + head[1]).item(), DIGITS)

    return {name: lambda x, head=head: score(x, head) for name, head in linear.items()}  # type: ignore[misc]


def figures(report: Report, opinions: Opinions, out: Path) -> Report:
    """The report with its figures computed from the scores in `out` and opinion scores."""
    rows = read_rows(out / "opinions.csv", text=("image",))
    synthetic = summary(read_rows(out / "synthetic.csv", text=("photo", "type")))
    found: list[Row] = []
    for head in (name for name in rows[0] if name != "image"):
        scores = np.array([row[head] for row in rows], float)
        found.append({"head": head, **agreement(scores, opinions), **overall(synthetic, head)})
    return replace(report, data={"name": opinions.name, "id": opinions.id, "images": len(rows)}, rows=found)


def markdown(report: Report) -> list[str]:
    """A table of the heads."""
    columns = [key for key in report.rows[0] if key not in ("head", "srcc", "srcc_low", "srcc_high")]
    cells = ([str(row["head"]), srcc_cell(row), *(f"{row[column]:.3f}" for column in columns)] for row in report.rows)
    return table(["head", "SRCC (95 % interval)", *columns], cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or only report, and write the report and all scores to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("--run", type=Path, help="folder of a finished grepq train semantic")
    parser.add_argument("--opinions", type=Path, required=True, help="folder with labels.csv")
    given = parse(parser, arguments, needed=("run",))
    opinions = read_opinions(given.opinions)
    if given.report_only:
        report = read_report(given.out, STUDY)
    else:
        model = GRepQ.from_pretrained(given.run)
        if model.semantic is None:
            raise ValueError(f"{given.run} has no semantic pathway")
        facts, widths = model.provenance, model.semantic.feature_blocks("semantic")
        linear = heads(read_sums(given.run), widths, facts["penalty"], facts["undistorted"])
        write_rows(given.out / "opinions.csv", score_opinions(model, linear, opinions))
        write_rows(given.out / "synthetic.csv", measure(scorers(model, linear), references()))
        sources = ", ".join(f"{i + 1}: {name}" for i, name in enumerate(facts["sources"]))
        report = measured(STUDY, model.weights_id, {}, [], [f"Sources: {sources}."])
    write_report(figures(report, opinions, given.out), given.out, markdown)


if __name__ == "__main__":
    main()
