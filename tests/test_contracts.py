"""Promises that users build on, one test or more for each; the rows of the review that no other file proves."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from grepq_metric import GRepQ, GRepQLoss, catalog, grepq, load_model
from grepq_metric.errors import InputError, WeightsError
from grepq_metric.files import sha256
from tests.command import grepq as command
from tests.source import PACKAGE, ROOT, docstrings, imports, is_private, messages, modules

OPEN_CLIP = ((2, 24), (4,))
"""Versions of open_clip, the first and the one that is too new, for whose image tower `grepq_metric.pathways.high` holds."""


@pytest.fixture(scope="module")
def packaged() -> GRepQ:
    return GRepQ.from_pretrained("grepq-ll").requires_grad_(False)


# 1: an image in another range is never scored without a word (all entry points: tests/test_metric_like.py)


@pytest.mark.parametrize(
    ("change", "scale"),
    [
        (lambda x: 2 * x - 1, r"\[-1, 1\]"),
        (lambda x: x * 255, r"\[0, 255\]"),
        (lambda x: 1 - 2 * x, r"\[-1, 1\]"),  # a negative in [-1, 1]
        (lambda x: x * 65535, r"\[0, 65535\]"),
        (lambda x: 2 * x, "0 to 2"),
        (lambda x: -x, r"\[-1, 1\]"),
        (lambda x: (x - 0.45) / 0.27, "normalised|mean"),
    ],
    ids=["-1 to 1", "0 to 255", "-1 to 1, negative", "0 to 65535", "0 to 2", "negative", "mean and deviation"],
)
def test_images_in_another_range_are_refused_with_the_likely_scale(
    packaged: GRepQ, photos: dict[str, Tensor], change: Any, scale: str
) -> None:
    x = photos["cat"][..., :120, :120]
    x = (x - x.min()) / (x.max() - x.min())
    with pytest.raises(InputError, match=scale) as caught:
        packaged(change(x))
    assert "[0, 1]" in str(caught.value)


def test_the_score_of_an_image_in_another_range_would_have_been_another(packaged: GRepQ, photos: dict[str, Tensor]) -> None:
    """Why it is refused: the pathways themselves take any numbers."""
    x = photos["cat"][..., :120, :120]
    right, wrong = (packaged.parts(v)["score"].item() for v in (x, 2 * x - 1))
    assert abs(right - wrong) > 0.01


# 2: no attribute changes a score without changing the id


def test_constants_are_frozen(packaged: GRepQ) -> None:
    low = packaged.low
    assert low is not None
    for constant in dataclasses.fields(low.config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(low.config, constant.name, 1.0)
        with pytest.raises(AttributeError):
            setattr(low, constant.name, 1.0)
    with pytest.raises(AttributeError):
        setattr(low, "config", dataclasses.replace(low.config, ridge=1.0))  # noqa: B010
    high = GRepQ(pathways=["high"], image_tower={"layers": [1, 1, 1, 1], "width": 8, "output_dim": 16}).high
    assert high is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(high.config, "logit_scale", 1.0)  # noqa: B010
    with pytest.raises(AttributeError):
        setattr(high, "logit_scale", 1.0)  # noqa: B010
    with pytest.raises(AttributeError):
        setattr(high, "config", dataclasses.replace(high.config, logit_scale=1.0))  # noqa: B010


def test_no_attribute_changes_a_score_without_changing_the_id(photos: dict[str, Tensor]) -> None:
    """Every plain attribute of the model and its pathway is set to another value, as by somebody who looks for a knob."""
    x = photos["retina"][..., :96, :96]
    model = GRepQ.from_pretrained("grepq-ll").requires_grad_(False)
    expected, weights_id = model(x).item(), model.weights_id
    tried = []
    assert model.low is not None
    for owner in (model, model.low, model.low.encoder):
        names = {name for name in [*vars(owner), *vars(type(owner))] if not name.startswith("_")}
        for name in sorted(names | {f.name for f in dataclasses.fields(model.low.config)}):
            value = getattr(owner, name, 1.0)
            if isinstance(value, bool) or not isinstance(value, (int, float, str, tuple)):
                continue
            other = value + 1 if isinstance(value, (int, float)) else f"{value}x" if isinstance(value, str) else value[:0]
            try:
                setattr(owner, name, other)
            except AttributeError:
                continue
            tried.append(name)
            assert model(x).item() == pytest.approx(expected, abs=1e-6) or model.weights_id != weights_id, name
            setattr(owner, name, value)
    assert {"name", "chunk_size"} <= set(tried)
    assert model.weights_id == weights_id


@pytest.mark.parametrize(
    ("option", "value"), [("ridge", 1.0), ("distance_scale", 50.0), ("patch_stride", 24), ("patch_size", 64)]
)
def test_another_constant_is_another_id(packaged: GRepQ, photos: dict[str, Tensor], option: str, value: Any) -> None:
    other = GRepQ.from_pretrained("grepq-ll", **{option: value})
    assert other.weights_id != packaged.weights_id
    assert other.config[option] == value
    assert dataclasses.asdict(other.low.config)[option] == value  # type: ignore[union-attr]
    x = photos["retina"][..., :96, :200]
    assert abs(other(x).item() - packaged(x).item()) > 1e-5


def test_changed_values_are_another_id(packaged: GRepQ) -> None:
    other = GRepQ.from_pretrained("grepq-ll").requires_grad_(False)
    assert other.weights_id == packaged.weights_id
    other.low.pristine_mean.mul_(1.01)  # type: ignore[union-attr]
    assert other.weights_id != packaged.weights_id


def test_the_chunk_size_is_no_part_of_the_id(packaged: GRepQ) -> None:
    assert GRepQ.from_pretrained("grepq-ll", chunk_size=3).weights_id == packaged.weights_id


def test_constants_of_the_semantic_pathway_are_frozen_and_part_of_the_id() -> None:
    model = GRepQ.from_pretrained("grepq-sem")
    assert model.semantic is not None
    for constant in dataclasses.fields(model.semantic.config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(model.semantic.config, constant.name, 1)
        with pytest.raises(AttributeError):
            setattr(model.semantic, constant.name, 1)
    before = model.weights_id
    model.semantic.head[-1].bias.data += 0.01  # type: ignore[operator]
    assert model.weights_id != before


# 5: nothing that users read names a file that they don't have


@pytest.mark.parametrize("module", [*modules(), *modules("benchmarks"), *modules("tools")], ids=lambda m: m.name)
def test_no_docstring_names_a_file_that_is_not_here(module: Any) -> None:
    texts = [*docstrings(module), *messages(module)]
    absent = re.compile(r"(?<!--terms )\b(method\.md|photos\.csv)\b|\.\./shared|/work/")  # an option's value is the user's
    named = [f"{module.where(text)}: {text.value}" for text in texts if absent.search(text.value)]
    assert not named, "\n".join(named)


def test_weights_name_no_file_that_does_not_lie_beside_them() -> None:
    for text in [*PACKAGE.glob("assets/*/config.json"), *PACKAGE.glob("assets/*/README.md")]:
        for name in re.findall(r"\b[\w-]+\.(?:csv|md)\b", text.read_text(encoding="utf-8")):
            assert (text.parent / name).exists(), f"{text.relative_to(ROOT)} names {name}"


# 7: a tag names one file for ever, and a name its newest tag


def test_a_tag_names_one_file() -> None:
    tags = [entry.tag for entry in catalog.ENTRIES]
    assert len(set(tags)) == len(tags)
    for entry in catalog.ENTRIES:
        assert entry.tag.startswith(f"{entry.name}.")
        assert catalog.find(entry.tag) is entry
        assert bool(entry.hub) != bool(entry.packaged or entry.clip)
        for part in entry.packaged:
            assert part.sha256 == sha256(PACKAGE / "assets" / part.folder / "model.safetensors"), entry.tag
        if not entry.hub:
            assert len(entry.packaged) + (entry.clip is not None) == len(entry.pathways)
        for file in (*entry.hub, *([entry.clip] if entry.clip else [])):
            assert re.fullmatch("[0-9a-f]{40}", file.revision), "a commit, since branches and tags of the Hub move"
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        if entry.clip:
            assert entry.clip.sha256[:8] in entry.tag


def test_a_name_means_its_newest_tag() -> None:
    for name in catalog.names():
        versions = [entry for entry in catalog.ENTRIES if entry.name == name]
        assert catalog.find(name) is max(versions, key=lambda entry: entry.date)
    assert catalog.names() == ["grepq-sem", "grepq-lite", "grepq-ll", "grepq-hl", "grepq", "qfm-iqm"]
    assert catalog.find(catalog.DEFAULT) is not None
    assert catalog.find("psnr") is None


def test_the_name_of_the_authors_weights_is_known_and_promises_no_values() -> None:
    entry = catalog.find("grepq-authors")
    assert entry is catalog.AUTHORS
    assert entry not in catalog.ENTRIES
    assert entry.name not in catalog.names()
    assert entry.note == ""
    assert entry.released is not None
    assert list(entry.released.files) == ["low", "high", "pristine"]


def test_a_tag_loads_the_weights_whose_id_it_holds(packaged: GRepQ, photos: dict[str, Tensor]) -> None:
    tagged = GRepQ.from_pretrained("grepq-ll.8690ed2c")
    assert tagged.weights_id == packaged.weights_id == "grepq-ll-8690ed2c"
    assert torch.equal(tagged(photos["stereo"]), packaged(photos["stereo"]))
    for entry in catalog.ENTRIES:
        if not entry.download:
            assert load_model(entry.tag).weights_id == entry.tag.replace(".", "-")


def test_an_unknown_tag_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InputError, match=r"unknown tag 'grepq-ll\.00000000'.*grepq-ll\.8690ed2c"):
        GRepQ.from_pretrained("grepq-ll.00000000")


def test_a_tag_has_no_other_revision() -> None:
    for tag in ("grepq-ll.8690ed2c", "grepq.8690ed2c-da0baa37"):
        with pytest.raises(InputError, match="revision"):
            GRepQ.from_pretrained(tag, revision="main")


def test_one_table_says_what_names_mean() -> None:
    """pyiqa's records, and what the package says of itself, are read from the catalog."""
    from grepq_metric.integrations.hook import records

    found = records()
    for name in catalog.names():
        entry = catalog.find(name)
        assert entry is not None
        assert found[name]["metric_opts"]["pathways"] == list(entry.pathways)
        least, greatest = (float(part) for part in found[name]["score_range"].split(","))
        assert (least, greatest) == entry.score_range
    spelled = {
        module.name
        for module in modules()
        for node in messages(module)
        if node.value in ("grepq-hl", "grepq-ll") and module.name != "grepq_metric.catalog"
    }
    assert not {name for name in spelled if name.startswith(("grepq_metric.weights.hub", "grepq_metric.integrations.hook"))}


def test_the_release_says_which_id_it_carries() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entry = catalog.find("grepq-ll")
    assert entry is not None
    assert entry.tag in text or entry.tag.replace(".", "-") in text


# 8: names say what they mean


def test_a_map_in_which_lower_is_better_is_called_a_distance_map(packaged: GRepQ, photos: dict[str, Tensor]) -> None:
    assert not hasattr(packaged.low, "quality_map")
    with pytest.raises(InputError, match="grepq-ll has no semantic pathway, and so no quality map"):
        packaged.quality_map(photos["coffee"])
    with pytest.raises(InputError, match="grepq-sem has no low-level pathway, and so no distance map"):
        GRepQ.from_pretrained("grepq-sem").distance_map(photos["coffee"])
    clean = photos["coffee"][..., :96, :96]
    noisy = (clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    distances = packaged.distance_map(torch.cat([clean, noisy]))
    assert distances.shape == (2, 1, 1, 1)
    assert distances[0] < distances[1]
    scores = packaged(torch.cat([clean, noisy]))
    assert scores[0] > scores[1]


def test_the_function_reduces_as_piqs_do(photos: dict[str, Tensor]) -> None:
    x = torch.cat([photos["cat"][..., :96, :96], photos["coffee"][..., :96, :96]])
    assert grepq(x).shape == ()
    assert grepq(x).item() == pytest.approx(grepq(x, reduction="none").mean().item(), abs=1e-7)


def test_one_constant_names_the_default(photos: dict[str, Tensor], photo_folder: Path) -> None:
    """The function, the loss and the command line score with what the catalog calls the default."""
    x = photos["stereo"]
    expected = GRepQ.from_pretrained(catalog.DEFAULT)
    assert grepq(x).item() == pytest.approx(expected(x).item(), abs=1e-6)
    assert GRepQLoss().model.weights_id == expected.weights_id
    assert expected.weights_id in command("score", photo_folder / "stereo.png").stderr


# 9: an error lists what the callee takes


def test_the_loss_lists_its_own_options() -> None:
    with pytest.raises(InputError, match="unknown option 'loss_wieght'") as caught:
        GRepQLoss(loss_wieght=1)
    message = str(caught.value)
    assert "did you mean 'loss_weight'" in message
    for own in ("reduction", "patches", "loss_weight", "checkpoint", "chunk_size", "ridge"):
        assert own in message.split("expected")[1], own
    assert "provenance" not in message


def test_loading_lists_what_loading_takes() -> None:
    with pytest.raises(InputError, match="unknown option 'chunk'") as caught:
        GRepQ.from_pretrained("grepq-ll", chunk=4)
    message = str(caught.value)
    assert "did you mean 'chunk_size'" in message
    for foreign in ("loss_weight", "provenance", "storage"):
        assert foreign not in message


# 10: flags are the command line's, and what is unexpected is a traceback


@pytest.mark.parametrize("module", [m for m in modules() if ".cli" not in m.name], ids=lambda m: m.name)
def test_library_messages_name_no_flags(module: Any) -> None:
    flag = re.compile(r"(^|[\s`'\"(])--[a-z]")
    texts = ((text, re.sub(r"pip install [^;]*", "", text.value)) for text in messages(module))  # pip's flags are not ours
    found = [f"{module.where(text)}: {said}" for text, said in texts if flag.search(said)]
    assert not found, "\n".join(found)


def test_what_is_unexpected_is_a_traceback(monkeypatch: pytest.MonkeyPatch, photo_folder: Path) -> None:
    for unexpected in (RuntimeError("CUDA error"), ValueError("not ours"), KeyError("x"), AssertionError()):

        def broken(*_: Any, error: Exception = unexpected, **__: Any) -> None:
            raise error

        monkeypatch.setattr(GRepQ, "from_parts", broken)
        with pytest.raises(type(unexpected)):
            command("score", photo_folder / "stereo.png")


def test_what_is_expected_is_one_line(monkeypatch: pytest.MonkeyPatch, photo_folder: Path, tmp_path: Path) -> None:
    for expected in (WeightsError("no weights"), InputError("no number"), FileNotFoundError("no such file: x")):

        def broken(*_: Any, error: Exception = expected, **__: Any) -> None:
            raise error

        monkeypatch.setattr(GRepQ, "from_parts", broken)
        written = command("score", photo_folder / "stereo.png", status=2)
        assert written.stderr.strip() == f"error: {expected}"


def test_grepq_debug_shows_the_traceback_of_what_is_expected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = ("score", "x.png", "--weights", tmp_path / "absent")
    monkeypatch.setenv("GREPQ_DEBUG", "1")
    with pytest.raises(FileNotFoundError):  # it leaves main, so that Python shows where it was raised
        command(*arguments)
    for value in ("", "0"):
        monkeypatch.setenv("GREPQ_DEBUG", value)
        assert len(command(*arguments, status=2).stderr.splitlines()) == 1


# 12: no private name of another package, and bounds on what is walked


@pytest.mark.parametrize("package", ["grepq_metric", "benchmarks"])
def test_no_private_name_of_another_package_is_imported(package: str) -> None:
    found = [
        f"{module.where(i.node)}: {ast.unparse(i.node)}"
        for module in modules(package)
        for i in imports(module)
        if i.top not in ("grepq_metric", "benchmarks", "__future__")
        and any(is_private(part) for part in [*i.module.split("."), i.name or ""])
    ]
    assert not found, "\n".join(found)


def test_the_image_tower_is_open_clips_for_the_versions_that_it_holds_for() -> None:
    """`grepq_metric.pathways.high` walks `ModifiedResNet`: with no positional embedding both must give the same.

    If this fails after an update of open_clip, look at ``open_clip/modified_resnet.py``, and change `OPEN_CLIP` with it.
    """
    from open_clip.modified_resnet import ModifiedResNet

    from grepq_metric.pathways import HighLevelConfig, HighLevelPathway, ImageTower

    installed = tuple(int(part) for part in version("open_clip_torch").split(".")[:2])
    assert OPEN_CLIP[0] <= installed < OPEN_CLIP[1]

    torch.manual_seed(0)
    tower = ImageTower(layers=(1, 2, 1, 1), width=16, output_dim=24)
    theirs = ModifiedResNet([1, 2, 1, 1], output_dim=24, heads=8, image_size=64, width=16).eval()
    torch.nn.init.zeros_(theirs.attnpool.positional_embedding)
    for name, value in theirs.state_dict().items():
        if name.endswith("bn3.weight"):
            value.fill_(0.7)  # open_clip starts them at 0, which would hide a wrong walk through the blocks
        elif name.endswith("running_mean"):
            value.uniform_(-0.2, 0.2)
    ours = HighLevelPathway(HighLevelConfig(image_tower=tower)).eval()
    state = {k: v for k, v in theirs.state_dict().items() if k != "attnpool.positional_embedding"}
    assert set(ours.visual.state_dict()) == set(state)
    ours.visual.load_state_dict(state)
    x = torch.rand(2, 3, 64, 64)
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    with torch.inference_mode():
        assert torch.allclose(ours(x), theirs((x - mean) / std), atol=1e-5)
        assert ours(x).std() > 1e-3


@pytest.mark.parametrize("name", ["grepq-ll", "grepq-sem"])
def test_the_shipped_config_is_what_the_model_writes(name: str) -> None:
    """One truth: config.json holds the constants that the model works with, and no others."""
    shipped = json.loads((PACKAGE / "assets" / name / "config.json").read_text(encoding="utf-8"))
    assert GRepQ.from_pretrained(name).config == shipped
