"""Promise: ``grepq publish`` puts weights and an honest model card on the Hub, and explains what went wrong.

Their tag means the same files for ever, there and in the catalog.
"""

import json
from dataclasses import replace

import pytest
import torch

from grepq_metric import GRepQ, WeightsError, catalog
from grepq_metric.files import sha256
from grepq_metric.weights.publish import publish
from tests.command import grepq


@pytest.fixture
def folder(tmp_path):
    model = GRepQ.from_pretrained("grepq-ll")
    model.name = "mine"
    model.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def entry(hub, folder):
    """The catalog's entry of the weights, as it was printed when they were published."""
    printed = grepq("publish", folder, "--repo", "tester/mine").stdout
    _, _, source = printed.partition("\n")
    (entry,) = eval(source, {"Entry": catalog.Entry, "HubFile": catalog.HubFile})
    return entry


def change_provenance(folder):
    """Other bytes of the same values."""
    config = json.loads((folder / "config.json").read_text())
    config["provenance"]["trained_by"] = "somebody else"
    (folder / "config.json").write_text(json.dumps(config))


def uploads(hub):
    """The requests that could change something."""
    return [path for method, path, _ in hub.requests if method not in ("GET", "HEAD")]


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


def test_the_printed_entry_loads_the_published_weights(hub, entry, folder, photos, tmp_path, monkeypatch):
    model = GRepQ.from_pretrained(folder)
    assert entry.tag == model.weights_id.replace("mine-", "mine.")
    assert hub.tags["tester/mine"] == {entry.tag: hub.head("tester/mine")}
    assert {file.revision for file in entry.hub} == {hub.head("tester/mine")}
    assert [file.sha256 for file in entry.hub] == [sha256(folder / name) for name in ("config.json", "model.safetensors")]
    assert entry.download == sum((folder / file.name).stat().st_size for file in entry.hub)
    monkeypatch.setattr(catalog, "ENTRIES", (entry, *catalog.ENTRIES))
    for name in ("mine", entry.tag):
        back = GRepQ.from_pretrained(name, cache_dir=tmp_path / "cache")
        assert back.weights_id == model.weights_id
        assert torch.equal(back(photos["cat"]), model(photos["cat"]))
    hub.requests.clear()
    assert GRepQ.from_pretrained("mine", cache_dir=tmp_path / "cache", local_files_only=True).weights_id == model.weights_id
    assert not hub.requests
    assert f"downloads {entry.download / 1e6:.0f} MB" in grepq("info").stdout


def test_the_entry_takes_no_other_files(hub, entry, tmp_path, monkeypatch):
    for file in entry.hub:
        pinned = tuple(replace(one, sha256="0" * 64) if one == file else one for one in entry.hub)
        monkeypatch.setattr(catalog, "ENTRIES", (replace(entry, hub=pinned), *catalog.ENTRIES))
        with pytest.raises(WeightsError, match=rf"{file.name} of tester/mine is another file than the one that this release"):
            GRepQ.from_pretrained("mine", cache_dir=tmp_path / file.name)


def test_what_is_published_already_is_not_uploaded_again(hub, entry, folder):
    before = dict(hub.commits)
    hub.requests.clear()
    again = publish(GRepQ.from_pretrained(folder), "tester/mine", token="hf_secret")
    assert again.entry == replace(entry, date=again.entry.date)
    assert again.address == f"{hub.url}/tester/mine/commit/{entry.hub[0].revision}"
    assert not uploads(hub)
    assert hub.commits == before


def test_a_tag_of_the_hub_is_refused_for_other_files_before_anything_is_uploaded(hub, entry, folder):
    before = hub.content("tester/mine", "config.json", entry.tag)
    change_provenance(folder)
    hub.requests.clear()
    told = grepq("publish", folder, "--repo", "tester/mine", status=2).stderr
    assert f"tester/mine has the tag {entry.tag} with another config.json" in told
    assert not uploads(hub)
    assert hub.content("tester/mine", "config.json", entry.tag) == before


def test_other_values_are_another_tag_and_the_old_one_stays(hub, entry, folder, tmp_path, monkeypatch):
    model = GRepQ.from_pretrained(folder)
    before = model.weights_id
    model.low.pristine_mean.data.mul_(1.01)
    other = publish(model, "tester/mine", token="hf_secret").entry
    assert set(hub.tags["tester/mine"]) == {entry.tag, other.tag}
    assert len({entry.tag, other.tag, hub.tags["tester/mine"][entry.tag], hub.tags["tester/mine"][other.tag]}) == 4
    monkeypatch.setattr(catalog, "ENTRIES", (other, entry))
    assert GRepQ.from_pretrained(entry.tag, cache_dir=tmp_path).weights_id == before
    assert GRepQ.from_pretrained("mine", cache_dir=tmp_path).weights_id == model.weights_id


@pytest.mark.parametrize("name", ["grepq-ll", "grepq-lite"])
def test_a_tag_of_the_catalog_is_refused_for_other_files_before_anything_is_uploaded(hub, name):
    model = GRepQ.from_pretrained(name)
    model.storage = "float32"  # the same values in other bytes; those of grepq-lite lie in two files
    with pytest.raises(WeightsError, match=rf"{name}\..* is a tag of this release, for other files"):
        publish(model, "tester/mine", token="hf_secret")
    assert not hub.requests


def test_an_entry_of_the_catalog_refuses_its_tag_for_other_files_in_any_repository(hub, entry, folder, monkeypatch):
    monkeypatch.setattr(catalog, "ENTRIES", (entry, *catalog.ENTRIES))
    assert publish(GRepQ.from_pretrained(folder), "tester/copy").entry.tag == entry.tag
    change_provenance(folder)
    hub.requests.clear()
    with pytest.raises(WeightsError, match="is a tag of this release, for other files"):
        publish(GRepQ.from_pretrained(folder), "tester/elsewhere")
    assert not hub.requests


def test_a_tag_of_the_catalog_may_be_published_for_its_own_file(hub):
    published = publish(GRepQ.from_pretrained("grepq-ll"), "tester/mirror", token="hf_secret")
    assert catalog.find(published.entry.tag).packaged[0].sha256 == published.entry.hub[1].sha256


def test_values_that_storing_would_change_are_refused(hub, folder):
    model = GRepQ.from_pretrained(folder)
    next(model.low.encoder.parameters()).data.mul_(1.0001)
    assert model.storage == "float16"
    with pytest.raises(WeightsError, match=r"mine-\w+ would be stored as mine-\w+, in float16: save and load it first"):
        publish(model, "tester/mine", token="hf_secret")
    assert not hub.requests


def test_the_entry_names_the_licence_of_the_card(hub, folder):
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Mine\n")
    assert publish(GRepQ.from_pretrained(folder), "tester/mine", card=folder / "README.md").entry.licence == "cc-by-nc-4.0"
    assert publish(GRepQ.from_pretrained(folder), "tester/other").entry.licence == "mit"
