"""Promise: ``grepq publish`` puts weights and an honest model card on the Hub, and explains what went wrong."""

import pytest
import torch

from grepq_metric import GRepQ, WeightsError
from grepq_metric.weights.publish import publish
from tests.command import grepq


@pytest.fixture
def folder(tmp_path):
    model = GRepQ.from_pretrained("grepq-ll")
    model.name = "mine"
    model.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def facts(tmp_path):
    (tmp_path / "photos.csv").write_text("file,set,terms\na.jpg,parks,CC0\nb.jpg,parks,CC0\nc.jpg,roads,MIT | BSD\n")
    (tmp_path / "results.md").write_text(
        "SRCC 0.123 on some photos, `python -m benchmarks.studies.training_gain`, 2026-11-22.\n"
    )
    return {"terms": [tmp_path / "photos.csv"], "results": [tmp_path / "results.md"]}


def test_the_command_line_uploads_weights_and_card(hub, folder, facts, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    options = ["--terms", facts["terms"][0], "--results", facts["results"][0]]
    result = grepq("publish", folder, "--repo", "tester/mine", *options)
    assert result.stdout.startswith(hub.url)
    assert sorted(hub.repositories["tester/mine"]) == ["README.md", "config.json", "model.safetensors"]
    card = hub.content("tester/mine", "README.md").decode()
    model = GRepQ.from_pretrained(folder)
    for text in (
        model.weights_id,
        "| parks | 2 | CC0 |",
        "| roads | 1 | MIT / BSD |",
        "SRCC 0.123",
        "## Limits",
        "trained_by",
    ):
        assert text in card, text
    assert "license: mit" in card
    back = GRepQ.from_pretrained("tester/mine", cache_dir=tmp_path / "cache")
    x = torch.rand(1, 3, 128, 128)
    assert torch.equal(back(x), model(x))
    assert {token for method, path, token in hub.requests if "commit" in path} == {"Bearer hf_secret"}


def test_a_card_that_somebody_wrote_is_uploaded(hub, folder):
    (folder / "README.md").write_text("# My own card\n")
    publish(GRepQ.from_pretrained(folder), "tester/mine", card=folder / "README.md", token="hf_secret")
    assert hub.content("tester/mine", "README.md") == b"# My own card\n"


def test_without_results_the_card_says_so(hub, folder):
    publish(GRepQ.from_pretrained(folder), "tester/mine", token="hf_secret")
    card = hub.content("tester/mine", "README.md").decode()
    assert "Nothing that has been recorded here." in card
    assert "Terms of the training photos" not in card


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"repo": "mine"}, ValueError, "user/name"),
        ({"card": "absent.md"}, FileNotFoundError, "absent.md"),
        ({"terms": ["absent.csv"]}, FileNotFoundError, "absent.csv"),
        ({"results": ["absent.md"]}, FileNotFoundError, "absent.md"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_sent(hub, folder, change, error, message):
    with pytest.raises(error, match=message):
        publish(**{"model": GRepQ.from_pretrained(folder), "repo": "tester/mine", "token": "hf_secret", **change})
    assert not hub.requests


def test_a_table_without_terms_and_a_hub_that_refuses_are_explained(hub, folder, facts, monkeypatch):
    facts["terms"][0].write_text("file,licence\na,b\n")
    with pytest.raises(ValueError, match=r"\['file', 'licence'\], expected `set` and `terms`"):
        publish(GRepQ.from_pretrained(folder), "tester/mine", **facts)
    hub.faults.add("unauthorised")
    with pytest.raises(WeightsError, match="HF_TOKEN"):
        publish(GRepQ.from_pretrained(folder), "tester/mine", token="hf_wrong")


def test_facts_that_are_no_text_are_named(hub, folder, facts):
    for name, path in (("terms", facts["terms"][0]), ("results", facts["results"][0])):
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match=f"{path.name} is no text in UTF-8"):
            publish(GRepQ.from_pretrained(folder), "tester/mine", **{name: [path]})
