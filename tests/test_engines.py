"""Promise: `Scorer` is the unit of engines for data. What is too heavy for CI is skipped there, and has been run.

pip install datasets && pytest -m slow tests/test_engines.py          # Hugging Face Datasets
pip install py-data-juicer==1.6.1 && pytest -m slow tests/test_engines.py
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grepq_metric import Scorer, score_files
from grepq_metric.integrations import hook

FILTER = Path(hook.__file__).with_name("juicer_filter.py")


@pytest.fixture
def files(photo_folder, tmp_path):
    names = [str(photo_folder / f"{name}.png") for name in ("cat", "rocket", "coffee")]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no photo")
    return [*names, str(broken)]


def expected(files):
    return [row["score"] for row in score_files(files, weights="grepq-sem")]


MAP = """
import json, sys
import datasets, multiprocess
from grepq_metric import Scorer

if __name__ == "__main__":
    multiprocess.set_start_method("spawn")
    photos = datasets.Dataset.from_dict({"path": sys.argv[2:], "label": list(range(len(sys.argv) - 2))})
    scorer = Scorer("grepq-sem", device="cpu")
    features = datasets.Features(photos.features | {name: datasets.Value(kind) for name, kind in scorer.types.items()})
    scored = photos.map(scorer, batched=True, batch_size=2, num_proc=int(sys.argv[1]) or None, features=features)
    print(json.dumps([scored[name][:] for name in ("label", "score", "error")]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [0, 2])
def test_hugging_face_datasets_map_a_scorer(files, tmp_path, processes):
    pytest.importorskip("datasets")
    script = tmp_path / "map.py"
    script.write_text(MAP)
    ended = subprocess.run(
        [sys.executable, script, str(processes), *files], capture_output=True, text=True, timeout=300, check=True
    )
    labels, scores, errors = json.loads(ended.stdout)
    assert labels == [0, 1, 2, 3]
    assert scores == expected(files)
    assert errors[:3] == [None] * 3
    assert "cannot read" in errors[3]


@pytest.mark.slow
@pytest.mark.parametrize("decode", [True, False])
def test_hugging_face_datasets_map_a_scorer_over_images(files, decode):
    datasets = pytest.importorskip("datasets")
    found = datasets.Dataset.from_dict({"image": files[:3], "label": [3, 1, 2]}).cast_column(
        "image", datasets.Image(decode=decode)
    )
    scorer = Scorer("grepq-sem", device="cpu")
    kept = {name: kind for name, kind in found.features.items() if name != "image"}
    features = datasets.Features(kept | {name: datasets.Value(kind) for name, kind in scorer.types.items()})
    found = found.map(scorer, batched=True, batch_size=64, features=features, remove_columns="image")
    assert found["score"][:] == pytest.approx(expected(files[:3]), abs=1e-6)
    assert found["label"][:] == [3, 1, 2]


@pytest.mark.slow
def test_data_juicer_keeps_photos_within_bounds(files, tmp_path):
    pytest.importorskip("data_juicer")
    scores = expected(files)
    best = max(score for score in scores if score is not None)
    samples = [{"text": "", "images": [file]} for file in files] + [{"text": "none", "images": []}]
    samples += [{"text": "two", "images": [files[3], files[scores.index(best)]]}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    config = {
        **{"project_name": "test", "dataset_path": str(tmp_path / "in.jsonl"), "export_path": str(tmp_path / "out.jsonl")},
        **{"np": 1, "keep_stats_in_res_ds": True, "custom_operator_paths": [str(FILTER)]},
        "process": [{"image_grepq_filter": {"weights": "grepq-sem", "min_score": best - 1e-6, "device": "cpu"}}],
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    program = shutil.which("dj-process", path=str(Path(sys.executable).parent))
    ended = subprocess.run(
        [program, "--config", "config.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    kept = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["text"], row["images"]) for row in kept] == [
        (sample["text"], sample["images"]) for sample in (samples[scores.index(best)], *samples[4:])
    ]
    found = kept[0]["__dj__stats__"]["image_grepq_scores"]
    assert found == pytest.approx([best], abs=1e-6)
    assert kept[-1]["__dj__stats__"]["image_grepq_scores"] == [None, pytest.approx(best, abs=1e-6)]
