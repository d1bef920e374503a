"""Tables and a page of a results folder; nothing but that folder and `published.csv` enters them."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter, defaultdict
from pathlib import Path
from urllib.parse import quote

import numpy as np

from benchmarks.harness import agreement as statistics
from benchmarks.harness.report.page import render
from benchmarks.harness.runner import PROTOCOLS, decode, read_rows

PUBLISHED = Path(__file__).parents[1] / "published.csv"
FIGURES = ("srcc", "plcc", "plcc_logistic4", "plcc_logistic5", "plcc_cubic", "krcc", "rmse")
HEADINGS = {
    "metric": "metric",
    "srcc": "SRCC",
    "group": "group",
    "plcc": "PLCC",
    "plcc_logistic4": "PLCC, 4-par. logistic",
    "plcc_logistic5": "PLCC, 5-par. logistic",
    "plcc_cubic": "PLCC, cubic",
    "krcc": "KRCC",
    "rmse": "RMSE",
    "images": "images",
    "failed": "failed",
    "seconds": "s/image",
    "memory": "MiB",
}
WORST = 12
LEGEND = """Intervals are 95 % bootstrap intervals over images, or over reference contents where images share one. Metrics that
share a letter do not differ significantly (5 %, paired, Holm's correction within a table). RMSE is that of the 4-parameter
logistic."""


def write_report(results: Path, out: Path, failures: str = "all") -> list[Path]:
    """Write ``leaderboard.md``, ``.csv``, ``.tex`` and ``index.html``.

    Args:
        results: folder of `benchmarks.harness.runner`.
        out: folder to write to.
        failures: ``all``: an image on which a metric failed is excluded for all metrics of its dataset; ``own``: for that
            metric, and the tests between metrics take the images that all have.

    Raises:
        FileNotFoundError: there are no results.
        ValueError: a result file is damaged; the message names it.
        OSError: the report can't be written.
    """
    data = collect(results, failures)
    data["command"] = f"python -m benchmarks report --results {results} --out {out}"
    for scatter in data["scatter"]:
        for row in scatter["residuals"]:
            row["href"] = quote(Path(os.path.relpath(row["href"], out)).as_posix())
    out.mkdir(parents=True, exist_ok=True)
    texts = {"leaderboard.md": markdown(data), "leaderboard.tex": latex(data), "index.html": render(data)}
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    columns = [key for key in data["rows"][0] if key != "provenance"]
    with (out / "leaderboard.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in data["rows"]:
            flat = {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()}
            writer.writerow(flat)
    return [out / name for name in ("index.html", "leaderboard.md", "leaderboard.csv", "leaderboard.tex")]


def collect(results: Path, failures: str = "all") -> dict:
    """All figures of a results folder, in the form that `benchmarks.harness.report.page.render` takes."""
    records = defaultdict(list)
    for path in sorted(results.glob("*/*/*.json")):
        if not (path.parent.parent / "dataset.json").exists():
            continue  # no folder of the runner's
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["protocol"] in PROTOCOLS:
                records[path.parent.parent, record["protocol"]].append((path, record))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no result: {error!r}; delete it and run again") from error
    if not records:
        raise FileNotFoundError(f"no results in {results}: `python -m benchmarks run` makes some")
    datasets, rows, scatter = {}, [], []
    opened = {folder: _read_dataset(folder) for folder, _ in records}
    names = [dataset["name"] for dataset in opened.values()]
    for (folder, protocol), found in records.items():
        dataset = opened[folder]
        if names.count(dataset["name"]) > 1:  # versions with other content are other datasets
            dataset["name"] = dataset["id"]
        datasets[folder.name] = {
            key: dataset[key] for key in ("name", "title", "id", "kind", "images", "mos_range", "licence", "note")
        }
        measure = _zero_shot if protocol == "zero-shot" else _fitted
        for row, points in measure(dataset, protocol, found, failures):
            rows.append(row)
            scatter += [points] if points else []
    order = {protocol: i for i, protocol in enumerate(PROTOCOLS)}
    rows.sort(key=lambda r: (r["dataset"], order[r["protocol"]], _budget(r["labels"]), r["split"], -(r["srcc"] or -2)))
    titles = {dataset["title"]: dataset["name"] for dataset in datasets.values()}
    created = max(record["date"] for found in records.values() for _, record in found)
    return {
        "created": created,
        "command": "",
        "datasets": list(datasets.values()),
        "rows": rows + _published(titles),
        "scatter": scatter,
    }


def _budget(labels: int | str) -> float:
    return np.inf if labels == "all" else labels


def _read_dataset(folder: Path) -> dict:
    try:
        dataset = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        with (folder / "dataset.csv").open(newline="", encoding="utf-8") as stream:
            dataset["items"] = {row["image"]: row | {"path": folder / row["path"]} for row in csv.DictReader(stream)}
        mos = [float(row["mos"]) for row in dataset["items"].values()]
        # Where nothing is known of the scale, what was given.
        low, high = dataset["mos_range"]
        dataset["mos_range"] = [min(mos) if low is None else low, max(mos) if high is None else high]
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} lacks what the dataset is: {error}; run once more") from error
    return dataset


def _zero_shot(dataset: dict, protocol: str, found: list, failures: str):
    scores, problems = {}, {}
    for path, record in found:
        rows = read_rows(path.parent, protocol)
        missing = set(dataset["items"]) - set(rows)
        if missing:
            raise ValueError(f"{path.with_suffix('.csv')} lacks {len(missing)} images, for example {min(missing)}")
        scores[record["metric"]] = {image: decode(row["value"]) for image, row in rows.items() if not row["error"]}
        problems[record["metric"]] = sum(bool(row["error"]) for row in rows.values())
    # A metric that can't score any image is no reason to leave out all of them.
    common = set(dataset["items"]).intersection(*(set(values) for values in scores.values() if values))
    tested = {"all": list(dataset["items"])}
    if any(item["split"] == "test" for item in dataset["items"].values()):
        tested["test"] = [name for name, item in dataset["items"].items() if item["split"] == "test"]
    for split, names in tested.items():
        shared = [name for name in names if name in common]
        mos, groups = _opinions(dataset, shared)
        boot, values, made = {}, {}, []
        draws = statistics.resamples(groups, len(shared))
        for _, record in found:
            metric = record["metric"]
            sign = -1 if record["lower_better"] else 1
            x = sign * np.array([scores[metric].get(name, np.nan) for name in shared])
            row = _row(dataset, record, split=split, failed=problems[metric], images=len(shared))
            if not scores[metric] or len(shared) < 3:
                made.append((row | {"notes": ["fewer than 3 images with a score"]}, None))
                continue
            boot[metric] = np.array([statistics.srcc(x[d], mos[d]) for d in draws])
            values[metric] = statistics.srcc(x, mos)
            row["srcc_interval"] = statistics.interval(boot[metric])
            row["plcc_interval"] = statistics.interval(np.array([statistics.plcc(x[d], mos[d]) for d in draws]))
            if failures == "own":
                own = [name for name in names if name in scores[metric]]
                figures, notes = statistics.agreement(
                    sign * np.array([scores[metric][n] for n in own]), _opinions(dataset, own)[0]
                )
                row["images"] = len(own)
            else:
                figures, notes = statistics.agreement(x, mos)
            if not draws:
                notes.append(f"fewer than {statistics.FEWEST_CONTENTS} contents: no interval and no test")
            row |= figures | {"notes": notes}
            made.append((row, _scatter(dataset, row, shared, sign * x) if split == "all" else None))
        comparable = {metric: value for metric, value in values.items() if np.isfinite(value) and draws}
        marks = statistics.letters(comparable, statistics.pairwise_tests(boot, comparable))
        for row, points in made:
            yield row | {"group": marks.get(row["metric"])}, points


def _fitted(dataset: dict, protocol: str, found: list, failures: str):
    predictions = {}
    for path, record in found:
        draws = predictions[record["metric"]] = defaultdict(dict)
        with path.with_suffix(".csv").open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                draws[row["labels"], int(row["draw"])][row["image"]] = float(row["value"])
    for _, record in found:
        mine = predictions[record["metric"]]
        for labels in dict.fromkeys(labels for labels, _ in mine):
            runs, figures, notes, failed = [], [], set(), Counter()
            for key in sorted(key for key in mine if key[0] == labels):
                others = [theirs[key] for theirs in predictions.values() if key in theirs] if failures == "all" else []
                names = [name for name in mine[key] if all(name in other for other in others)]
                runs.append((names, np.array([mine[key][name] for name in names])))
                values, problems = statistics.agreement(runs[-1][1], _opinions(dataset, names)[0])
                figures.append(values)
                failed.update(problems)
            split = "test" if record["split"] == "official" else "random"
            row = _row(
                dataset, record, split=split, labels=int(labels) if labels.isdigit() else labels, images=len(runs[0][0])
            )
            for key in FIGURES:
                values = [figure[key] for figure in figures if figure[key] is not None]
                row[key] = float(np.median(values)) if values else None
                if len(runs) > 1 and key in ("srcc", "plcc"):
                    row[f"{key}_interval"] = np.percentile(values, (25, 75)).tolist() if values else None
            if len(runs) > 1:
                notes.add(f"median of {len(runs)} draws; the interval is that of their quartiles")
            else:
                mos, groups = _opinions(dataset, runs[0][0])
                draws = statistics.resamples(groups, len(mos))
                for key, correlation in (("srcc", statistics.srcc), ("plcc", statistics.plcc)):
                    row[f"{key}_interval"] = statistics.interval(np.array([correlation(runs[0][1][d], mos[d]) for d in draws]))
            notes |= {f"{problem}, in {count} of {len(runs)} draws" for problem, count in failed.items()}
            if record["failed"]:
                notes.add(f"heads were fitted without those of the {record['failed']} images that failed")
            row["notes"] = sorted(notes)
            yield row, _scatter(dataset, row, *runs[0])


def _row(dataset: dict, record: dict, **facts) -> dict:
    keys = ("versions", "machine", "threads", "processes", "date")
    return {
        "metric": record["metric"],
        "mode": record["mode"],
        "dataset": dataset["name"],
        "protocol": record["protocol"],
        "labels": 0,
        "split": "all",
        "images": record["images"],
        "measured": True,
        **dict.fromkeys(FIGURES),
        "srcc_interval": None,
        "plcc_interval": None,
        "group": None,
        "seconds": record.get("seconds_per_image"),
        "memory": record.get("peak_memory_mib"),
        "failed": record["failed"],
        "notes": [],
        "source": record["command"],
        "provenance": {**record["provenance"], "dataset": record["dataset"], **{key: record[key] for key in keys}},
    } | facts


def _opinions(dataset: dict, names: list[str]) -> tuple[np.ndarray, list[str] | None]:
    """Opinion scores, higher is better, and contents where images share them."""
    items = [dataset["items"][name] for name in names]
    groups = [item["group"] for item in items]
    mos = np.array([float(item["mos"]) for item in items])
    return (-mos if dataset["lower_better"] else mos), (groups if all(groups) else None)


def _scatter(dataset: dict, row: dict, names: list[str], scores: np.ndarray) -> dict:
    mos = np.array([float(dataset["items"][name]["mos"]) for name in names])
    fit = statistics.fit_curve(scores, mos, "logistic4")
    curve, residuals = None, []
    if fit.predict is not None:
        ends = np.linspace(scores.min(), scores.max(), 60)
        curve = np.stack([ends, fit.predict(ends)], 1).tolist()
        gap = mos - fit.predict(scores)
        for i in np.argsort(-np.abs(gap))[:WORST]:
            facts = {"score": float(scores[i]), "mos": float(mos[i]), "residual": float(gap[i])}
            residuals.append({"image": names[i], "href": dataset["items"][names[i]]["path"], **facts})
    return {
        **{key: row[key] for key in ("metric", "dataset", "protocol", "labels", "split")},
        "points": [[float(f"{s:.6g}"), float(f"{m:.6g}"), name] for s, m, name in zip(scores, mos, names, strict=True)],
        "curve": curve,
        "residuals": residuals,
    }


def _published(titles: dict[str, str]) -> list[dict]:
    """Published results on datasets of these titles; they are never compared with measured ones."""
    kinds = {"zero-shot": "zero-shot", "data-efficient": "few-labels", "full": "full"}
    rows = []
    with PUBLISHED.open(newline="", encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            if line["dataset"] in titles:
                values = {key: float(line[key]) if line[key] else None for key in ("srcc", "plcc")}
                rows.append(
                    {
                        "metric": line["method"],
                        "mode": "NR",
                        "dataset": titles[line["dataset"]],
                        "protocol": kinds[line["kind"]],
                        "labels": int(line["labels"]) if line["labels"].isdigit() else line["labels"],
                        "split": "as published",
                        "images": None,
                        "measured": False,
                        **dict.fromkeys((*FIGURES, "srcc_interval", "plcc_interval", "group", "seconds", "memory", "failed")),
                        **values,
                        "notes": [],
                        "source": line["source"],
                        "provenance": {},
                    }
                )
    return rows


def _sections(data: dict):
    """Rows of one dataset, protocol, budget and split, measured ones apart from published ones, with a heading."""
    sections = defaultdict(list)
    for row in data["rows"]:
        sections[row["dataset"], row["protocol"], row["labels"], row["split"], row["measured"]].append(row)
    kinds = {dataset["name"]: dataset["kind"] for dataset in data["datasets"]}
    for (name, protocol, labels, split, measured), rows in sections.items():
        budget = {0: "", "all": ", all labels"}.get(labels, f", {labels} labels")
        part = {"all": "all images", "test": "official test split", "random": "random test splits"}.get(split, split)
        synthetic = " (synthetic distortions)" if kinds[name] == "synthetic" else ""
        yield f"{name}{synthetic}, {protocol}{budget}, {part}", measured, rows


def _cell(row: dict, key: str) -> str:
    value = row[key]
    if value is None:
        return (
            "no fit"
            if key in ("plcc_logistic4", "plcc_logistic5", "rmse") and row["measured"] and row["srcc"] is not None
            else ""
        )
    if key in FIGURES:
        text = f"{value:.3f}"
        return (
            f"{text} ({row[key + '_interval'][0]:.3f} to {row[key + '_interval'][1]:.3f})"
            if row.get(f"{key}_interval")
            else text
        )
    return f"{value:.3g}" if key == "seconds" else f"{value:.0f}" if key == "memory" else str(value)


def markdown(data: dict) -> str:
    """The tables in Markdown."""
    lines = ["# Leaderboard", ""]
    for heading, measured, rows in _sections(data):
        keys = list(HEADINGS) if measured else ["metric", "srcc", "plcc", "source"]
        lines += [f"## {heading}{'' if measured else ': published, not measured here'}", ""]
        lines += ["| " + " | ".join(HEADINGS.get(key, key) for key in keys) + " |", "|---" * len(keys) + "|"]
        lines += ["| " + " | ".join(_cell(row, key).replace("|", "\\|") for key in keys) + " |" for row in rows]
        notes = sorted({f"{row['metric']}: {note}" for row in rows for note in row["notes"]})
        lines += ["", *(f"- {note}" for note in notes), *([""] if notes else [])]
    lines += [LEGEND]
    lines += ["", "Measured by:", ""]
    lines += [f"- `{command}`" for command in dict.fromkeys(row["source"] for row in data["rows"] if row["measured"])]
    for dataset in data["datasets"]:
        lines.append(
            f"- {dataset['id']}: {dataset['title']}, {dataset['kind']}; {dataset['licence']}; {dataset['note'] or 'no note'}"
        )
    facts = {}
    for row in data["rows"]:
        if row["measured"]:
            p = row["provenance"]
            versions = ", ".join(f"{name} {value}" for name, value in p["versions"].items())
            facts[f"- {p['date']}, {p['machine']}, {p['threads']} threads, {p['processes']} processes; {versions}"] = None
    return "\n".join([*lines, *facts]) + "\n"


def latex(data: dict) -> str:
    """The tables in LaTeX, for booktabs."""

    def escape(text: str) -> str:
        for special in "&%_#$":
            text = text.replace(special, f"\\{special}")
        return text

    lines = ["% made by python -m benchmarks report; needs \\usepackage{booktabs}"]
    for heading, measured, rows in _sections(data):
        keys = ["metric", "srcc", "plcc", "plcc_logistic4", "krcc", "rmse"] if measured else ["metric", "srcc", "plcc"]
        best = {
            key: max((row[key] for row in rows if row[key] is not None), default=None) for key in keys[1:] if key != "rmse"
        }
        lines += ["\\begin{table}", f"\\caption{{{escape(heading)}{'' if measured else ' (published)'}}}"]
        lines += [f"\\begin{{tabular}}{{l{'r' * (len(keys) - 1)}}}", "\\toprule"]
        lines += [" & ".join(escape(HEADINGS[key]) for key in keys) + " \\\\", "\\midrule"]
        for row in rows:
            cells = [escape(row["metric"])]
            for key in keys[1:]:
                text = "--" if row[key] is None else f"{row[key]:.3f}"
                cells.append(f"\\textbf{{{text}}}" if row[key] is not None and row[key] == best.get(key) else text)
            lines.append(" & ".join(cells) + " \\\\")
        lines += ["\\bottomrule", "\\end{tabular}", "\\end{table}", ""]
    return "\n".join(lines)
