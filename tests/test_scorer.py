"""Promises of `Scorer` and `score_files`: light to send, one bad photo is one error, no score depends on batch or process."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from grepq_metric import GRepQ, GRepQRegressor, InputError, Scorer, score_files
from grepq_metric.scoring import Engine, Item
from grepq_metric.scoring import processes as pool

COLUMNS = ["score", "low", "semantic", "high", "width", "height", "warning", "error", "weights_id"]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer("grepq-sem", device="cpu")


@pytest.fixture(scope="module")
def paths(photo_folder: Path) -> list[str]:
    return [str(path) for path in sorted(photo_folder.iterdir())]


@pytest.fixture(scope="module")
def expected(paths: list[str], scorer: Scorer) -> list[float]:
    """Scores of the model itself."""
    from grepq_metric import read_image

    model = GRepQ.from_pretrained("grepq-sem")
    with torch.inference_mode():
        return [model(read_image(path).unsqueeze(0)).item() for path in paths]


def test_a_batch_of_paths_bytes_or_images_gives_the_scores_of_the_model(
    scorer: Scorer, paths: list[str], expected: list[float]
) -> None:
    data = [Path(path).read_bytes() for path in paths]
    images = [Image.open(path) for path in paths]
    arrays = [np.asarray(image) for image in images]
    batches: list[dict[str, Any]] = [
        {"path": paths},
        {"path": np.array(paths, object)},
        {"bytes": data},
        {"bytes": np.array(data, object)},
        {"image": images},
        {"image": [*arrays[:1], *images[1:2], *(torch.from_numpy(a.copy()).permute(2, 0, 1) / 255 for a in arrays[2:])]},
        {"image": [{"bytes": value, "path": None} for value in data]},
        {"image": [{"bytes": None, "path": path} for path in paths]},
    ]
    for batch in batches:
        scored = scorer(batch)
        assert scored["error"] == [None] * len(paths)
        assert scored["score"] == pytest.approx(expected, abs=1e-6), batch
        assert scored["semantic"] == scored["score"]
        assert scored["low"] == scored["high"] == [None] * len(paths)
        assert list(zip(scored["width"], scored["height"], strict=True)) == [image.size for image in images]
        assert set(scored["weights_id"]) == {GRepQ.from_pretrained("grepq-sem").weights_id}
        assert [name for name in scored if name != "path"] == COLUMNS


def test_a_batch_of_one_array_of_images_is_taken(scorer: Scorer, photos: dict[str, Tensor]) -> None:
    crops = torch.cat([photos["cat"][..., :120, :130], photos["coffee"][..., :120, :130]])
    array = (crops.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    assert scorer({"image": array})["score"] == pytest.approx(scorer({"image": crops})["score"], abs=1e-6)


def test_other_columns_come_back_and_the_path_names_bytes(scorer: Scorer, paths: list[str]) -> None:
    batch = {"id": np.array([7, 8]), "bytes": [b"no photo", Path(paths[0]).read_bytes()], "path": ["a.jpg", "b.jpg"]}
    scored = scorer(batch)
    assert list(scored) == ["id", "path", *COLUMNS]
    assert scored["id"] == [7, 8]
    assert "cannot read a.jpg as an image" in scored["error"][0]
    assert scored["error"][1] is None


def test_one_bad_item_is_one_error(scorer: Scorer, paths: list[str], expected: list[float], photos: dict[str, Tensor]) -> None:
    good = Path(paths[0]).read_bytes()
    scored = scorer({"bytes": [good, b"", None, good[:2000], good]})
    assert [error is None for error in scored["error"]] == [True, False, False, False, True]
    assert "it is empty" in scored["error"][1]
    assert "got NoneType" in scored["error"][2]
    assert scored["score"][::4] == pytest.approx([expected[0]] * 2, abs=1e-6)
    assert scored["score"][1:4] == [None] * 3
    x = photos["cat"][0]
    wrong = [x * 255, x.double().numpy(), x.unsqueeze(0), "cat.png", x.permute(1, 2, 0), x * torch.nan, None]
    scored = scorer({"image": [x, *wrong, x]})
    assert [error is None for error in scored["error"]] == [True, *[False] * len(wrong), True]
    assert "[0, 255]" in scored["error"][1]
    assert "nan" in scored["error"][6]
    assert all(f"item {i}" in scored["error"][i] for i in range(1, len(wrong) + 1))
    assert scored["score"][0] == scored["score"][-1]
    scored = scorer({"path": ["absent.png", 3, paths[0]]})
    assert scored["error"][:2] == ["no such file: absent.png", "expected a path, got int"]
    assert scored["score"][2] is not None


def test_a_name_that_the_system_refuses_is_one_error(scorer: Scorer, paths: list[str]) -> None:
    scored = scorer({"path": ["x" * 5000, "nul\0.png", paths[0]]})
    assert "File name too long" in scored["error"][0]
    assert scored["error"][1] is not None
    assert scored["error"][2] is None


def test_whatever_goes_wrong_in_reading_is_one_error(
    scorer: Scorer, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from grepq_metric.scoring import scorer as module

    original = module.decode_image

    def fails(data: bytes, name: str, max_pixels: int, damages: list[str] | None) -> Tensor:
        if name == paths[0]:
            raise RuntimeError("can't allocate memory")
        return original(data, name, max_pixels, damages)

    monkeypatch.setattr(module, "decode_image", fails)
    assert scorer({"path": paths[:2]})["error"] == ["can't allocate memory", None]


def test_photos_of_one_size_may_go_through_the_network_together(scorer: Scorer, photos: dict[str, Tensor]) -> None:
    images = [photos["cat"][0, :, i : i + 110, :120] for i in range(5)] + [photos["coffee"][0, :, :100, :140]]
    images.insert(2, images[1] * 300)  # an error between them
    alone, sizes = scorer({"image": images}), []
    together = Scorer("grepq-sem", device="cpu", batch_size=3, max_pixels=40_000)
    components = together.model.components

    def watched(x: Tensor) -> Any:
        sizes.append(len(x))
        return components(x)

    together.model.components = watched  # type: ignore[method-assign]
    got = together({"image": images})
    assert sizes == [2, 3, 1]
    assert [error is None for error in got["error"]] == [i != 2 for i in range(7)]
    scored = [i for i in range(7) if i != 2]
    assert [got["score"][i] for i in scored] == pytest.approx([alone["score"][i] for i in scored], abs=1e-6)
    sizes.clear()
    together.max_pixels = 2 * 110 * 120  # of a batch as well
    together({"image": images})
    assert sizes == [2, 2, 1, 1]


def test_where_a_batch_is_too_much_its_photos_are_scored_alone(photos: dict[str, Tensor]) -> None:
    scorer = Scorer("grepq-sem", device="cpu", batch_size=4)
    components = scorer.model.components

    def small(x: Tensor) -> Any:
        if len(x) > 1 or x[0, 0, 0, 0] == 0.5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return components(x)

    scorer.model.components = small  # type: ignore[method-assign]
    images = [photos["cat"][0, :, i : i + 100, :100].clone() for i in range(3)]
    images[1][0, 0, 0] = 0.5
    scored = scorer({"image": images})
    assert scored["error"] == [None, "CUDA out of memory", None]
    assert scored["width"] == [100] * 3


def test_pickling_never_carries_the_weights(scorer: Scorer, paths: list[str]) -> None:
    fresh = Scorer("grepq-sem", device="cpu")
    before = len(pickle.dumps(fresh))
    scored = fresh({"path": paths[:1]})["score"]
    sent = pickle.dumps(fresh)
    assert len(sent) == before < 2000
    assert pickle.loads(sent)({"path": paths[:1]})["score"] == scored


def test_weights_load_once_at_the_first_call_also_of_several_threads(
    monkeypatch: pytest.MonkeyPatch, paths: list[str]
) -> None:
    calls, original = [], GRepQ.from_parts

    def counted(*arguments: Any, **options: Any) -> GRepQ:
        calls.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(GRepQ, "from_parts", counted)
    scorer = Scorer("grepq-sem")
    assert calls == []
    threads = [threading.Thread(target=scorer, args=({"path": paths[:1]},)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_wrong_options_and_missing_weights_are_raised(tmp_path: Path) -> None:
    for arguments, message in (
        ({"chunk": 3}, "unknown option 'chunk'.*did you mean 'chunk_size'"),
        ({"interval": 0.9}, "needs a head"),
        ({"head": "biq2021", "interval": 90}, "interval must be between 0 and 1, got 90"),
        ({"max_pixels": 0}, "max_pixels must be a positive number"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
    ):
        with pytest.raises(InputError, match=message):
            Scorer(**arguments)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"no such head: absent\.safetensors"):
        Scorer(head="absent.safetensors")
    for weights, kind, message in (
        ("grepq-xx", InputError, "unknown weights 'grepq-xx'"),
        (tmp_path / "nowhere", FileNotFoundError, "nowhere"),
    ):
        with pytest.raises(kind, match=message):
            Scorer(weights)({"path": []})
    with pytest.raises(InputError, match="cannot use device 'tpu9'"):
        Scorer(device="tpu9")({"path": []})
    with pytest.raises(InputError, match="a column image, bytes, path, got id, name"):
        Scorer()({"id": [1], "name": ["a.png"]})
    with pytest.raises(InputError, match="got 1 of bytes and 2 of id"):
        Scorer()({"id": [1, 2], "bytes": [b""]})
    with pytest.raises(InputError, match="got one path"):
        score_files("photo.png")
    with pytest.raises(InputError, match="jobs must be 1 or more, got 0"):
        score_files([], jobs=0)


def test_weights_in_a_folder_are_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str]
) -> None:
    """Engines run workers in folders of their own."""
    GRepQ.from_pretrained("grepq-ll").save_pretrained(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    scorer = Scorer("mine")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(scorer))({"path": paths[:1]})["low"][0] > 0


def test_with_a_head_there_is_a_mos_with_bounds(paths: list[str]) -> None:
    scored = Scorer(head="biq2021", interval=0.9)({"path": [*paths[:2], "absent.png"]})
    assert list(scored) == ["path", "mos", "mos_low", "mos_high", *COLUMNS[4:]]
    regressor = GRepQRegressor.load("biq2021")
    assert scored["mos"][:2] == pytest.approx(regressor.predict(paths[:2]), abs=1e-5)
    bounds = regressor.predict_interval(paths[:2], 0.9)
    assert scored["mos_low"][:2] == pytest.approx(bounds[:, 0], abs=1e-5)
    assert scored["mos_high"][:2] == pytest.approx(bounds[:, 1], abs=1e-5)
    assert scored["mos"][2] is scored["mos_low"][2] is None


def test_score_files_yields_rows_in_order_as_they_are_computed(paths: list[str], expected: list[float]) -> None:
    drawn: list[str] = []

    def endless() -> Any:
        while True:
            for path in (*paths, "absent.png"):
                drawn.append(path)
                yield path

    rows = score_files(endless())
    for path, score in zip(paths, expected, strict=True):
        row = next(rows)
        assert list(row) == ["path", *COLUMNS]
        assert row["path"] == path
        assert row["score"] == pytest.approx(score, abs=1e-6)
    assert next(rows)["error"] == "no such file: absent.png"
    assert len(drawn) <= len(paths) + 1 + 3


def test_memory_does_not_grow_with_the_number_of_photos(photo_folder: Path) -> None:
    import psutil

    process, path = psutil.Process(), photo_folder / "stereo.png"
    rows = score_files(path for _ in range(400))
    sizes = [process.memory_info().rss for _ in rows]
    assert sizes[-1] - sizes[100] < 20e6


def test_what_follows_a_gap_does_not_wait(scorer: Scorer, paths: list[str]) -> None:
    """None stands for: nothing there at the moment."""
    asked = 0

    def source() -> Any:
        nonlocal asked
        for path in paths[:3]:
            asked += 1
            yield Item(path, path)
            yield None
            yield None

    for number, _ in enumerate(scorer.stream(source()), 1):
        assert asked == number


# Processes


def test_processes_give_the_rows_of_one_process(paths: list[str]) -> None:
    given = [*paths, "absent.png", *paths]
    alone = list(score_files(given))
    by_two = list(score_files(given, jobs=2))
    assert [row["path"] for row in by_two] == given
    for one, two in zip(alone, by_two, strict=True):
        assert {**one, "score": None, "semantic": None} == {**two, "score": None, "semantic": None}
        assert two["score"] == (one["score"] if one["score"] is None else pytest.approx(one["score"], abs=1e-6))


def test_what_can_not_be_loaded_is_raised_by_processes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        next(score_files([tmp_path / "x.png"], weights=tmp_path / "nowhere", jobs=2))


class Echo:
    """A worker of the pool that does what its items say."""

    def facts(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "threads": torch.get_num_threads()}

    def stream(self, items: Any) -> Any:
        for item in items:
            if item == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if item == "slow":
                time.sleep(0.5)
            if item is not None:
                yield item, (item, os.getpid(), torch.get_num_threads())


class KilledOnce(Echo):
    """A worker that somebody kills at its first item, whatever that is; the file says that it was."""

    def __init__(self, told: Path) -> None:
        self.told = told

    def stream(self, items: Any) -> Any:
        for item in items:
            if item is not None and not self.told.exists():
                self.told.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if item is not None:
                yield item, item


class Stillborn(Echo):
    def facts(self) -> dict[str, Any]:
        os._exit(3)


@pytest.mark.slow
def test_a_death_is_the_error_of_one_item_and_the_rest_goes_on() -> None:
    items = ["slow", *range(6), "die", *range(6, 20), "die", 20]
    with pool.Processes(Echo(), 2) as processes:
        found = list(processes.stream(items, lambda error: error))
    assert [item for item, _ in found] == items
    for item, row in found:
        if item == "die":
            assert row == "the process that scored it died by SIGKILL: perhaps for want of memory"
        else:
            assert row[0] == item


@pytest.mark.parametrize("items", [["one"], ["one", "two", "three"]])
def test_what_a_process_that_is_killed_had_in_hand_is_scored_by_another(tmp_path: Path, items: list[str]) -> None:
    with pool.Processes(KilledOnce(tmp_path / "told"), 1) as processes:
        assert list(processes.stream(items, lambda error: error)) == [(item, item) for item in items]
    assert (tmp_path / "told").exists()


@pytest.mark.slow
def test_processes_that_keep_dying_are_given_up() -> None:
    with (
        pool.Processes(Echo(), 1) as processes,
        pytest.raises(pool.GRepQError, match="keep dying, the last one by SIGKILL"),
    ):
        list(processes.stream(["die"] * 20, lambda error: error))


def test_a_process_that_dies_at_its_start_is_an_error_that_says_so() -> None:
    with pytest.raises(pool.GRepQError, match="ended with exit status 3 before it was ready"):
        pool.Processes(Stillborn(), 2)


def test_processes_share_the_threads_and_the_work() -> None:
    with pool.Processes(Echo(), 2) as processes:
        found = [row for _, row in processes.stream(["slow"] * 6, lambda error: error)]
    assert len({pid for _, pid, _ in found}) == 2
    assert {threads for _, _, threads in found} == {max(1, torch.get_num_threads() // 2)}


def test_items_are_drawn_as_they_are_needed_and_a_slow_one_holds_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "WINDOW", 8)
    drawn = 0

    def source() -> Any:
        nonlocal drawn
        yield "slow"
        while True:
            drawn += 1
            yield drawn

    with pool.Processes(Echo(), 2) as processes:
        found = processes.stream(source(), lambda error: error)
        assert next(found)[0] == "slow"
        assert 8 <= drawn <= 2 * 8


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path: Path, photo_folder: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import itertools, sys\n"
        "from grepq_metric import score_files\n"
        "if __name__ == '__main__':\n"
        "    for row in score_files(itertools.repeat(sys.argv[1]), jobs=2):\n"
        "        print(row['score'], flush=True)\n"
    )
    import psutil

    process = subprocess.Popen(
        [sys.executable, script, photo_folder / "stereo.png"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_script_without_the_main_guard_is_told_of_it(tmp_path: Path, photo_folder: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nfrom grepq_metric import score_files\nprint(list(score_files([sys.argv[1]], jobs=2)))\n")
    result = subprocess.run([sys.executable, script, photo_folder / "stereo.png"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert '__name__ == "__main__"' in result.stderr.splitlines()[-1]


def test_the_engine_says_what_scores_depend_on() -> None:
    with Engine(Scorer("grepq-sem", device="cpu")) as engine:
        facts = engine.facts
    assert facts["weights_id"] == GRepQ.from_pretrained("grepq-sem").weights_id
    other = Scorer("grepq-lite", device="cpu", pathways=("semantic",)).facts()
    assert other["options"] == {"pathways": ["semantic"]}
    assert Scorer(head="biq2021", device="cpu").facts()["head"] != facts["head"]


def test_a_script_that_ends_in_the_middle_of_the_photos_ends_without_a_word(photo_folder: Path) -> None:
    script = """
import sys
from grepq_metric import score_files
rows = score_files([sys.argv[1]] * 9, weights="grepq-ll", device="cpu")
print(next(rows)["error"])
"""
    command = [sys.executable, "-c", script, str(photo_folder / "stereo.png")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "None\n", "")
