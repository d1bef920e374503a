"""Promises of the Hub: the real client downloads from (a local copy of) its API, and every fault is one clear message."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace

import huggingface_hub
import pytest
import torch

from grepq_metric import GRepQ, WeightsError, catalog, weights
from grepq_metric.catalog import CLIP_RN50
from grepq_metric.files import sha256
from grepq_metric.weights import folder
from grepq_metric.weights import hub as weights_hub
from tests.command import grepq
from tests.hub_server import COMMIT, HubServer

SCORE = "import sys; from grepq_metric import GRepQ; print(GRepQ.from_pretrained(sys.argv[1]).weights_id)"
PINNED = "import sys; from tests.test_hub import pin, catalog; catalog.ENTRIES = pin(sys.argv.pop()); "


def pin(digest):
    """A catalog that pins the CLIP of the local Hub: the real one can't be had in tests."""
    clip = replace(CLIP_RN50, revision=COMMIT, sha256=digest)
    return tuple(replace(entry, clip=entry.clip and clip) for entry in catalog.ENTRIES)


def run(code, *args, **environment):
    """A fresh interpreter, since the Hub client reads its environment on import."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-c", code, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def message_of(process):
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    return err.strip().splitlines()[-1]


@pytest.fixture
def clip_hub(hub, clip_file, monkeypatch):
    """The Hub with CLIP on it."""
    hub.repositories[CLIP_RN50.repository] = {CLIP_RN50.name: clip_file}
    monkeypatch.setattr(catalog, "ENTRIES", pin(sha256(clip_file)))
    return hub


@pytest.fixture(scope="session")
def clip_cache(tmp_path_factory):
    """A cache that several tests share, so that CLIP is fetched and assembled once."""
    return tmp_path_factory.mktemp("hub-cache")


@pytest.fixture
def own_weights(hub, tmp_path):
    """A repository with the packaged low-level weights under another name."""
    folder = weights.packaged_folder("grepq-ll")
    hub.repositories["tester/mine"] = {name: folder / name for name in ("config.json", "model.safetensors")}
    return "tester/mine"


def assembled(cache):
    return sorted(p.name for p in cache.rglob("grepq*-*") if (p / "config.json").exists())


def test_clip_is_fetched_and_assembled_once(clip_hub, clip_cache, clip_state, photos, monkeypatch):
    model = GRepQ.from_pretrained("grepq-hl", cache_dir=clip_cache)
    assert model.pathways == ("high",)
    assert model.provenance["clip_sha256"]
    assert COMMIT in model.provenance["high"]
    tower = {k.removeprefix("visual."): v.half().float() for k, v in clip_state.items() if k.startswith("visual.")}
    for key, value in model.high.visual.state_dict().items():
        assert torch.equal(value, tower[key]) or not value.is_floating_point(), key

    def refuse(state):
        raise AssertionError("a text tower was built although the weights were assembled already")

    monkeypatch.setattr("grepq_metric.weights.clip.prompt_features", refuse)
    clip_hub.requests.clear()
    again = GRepQ.from_pretrained("grepq-hl", cache_dir=clip_cache)
    assert again.weights_id == model.weights_id
    assert not clip_hub.requests  # what is pinned and assembled needs no Hub
    clip_hub.faults.add("error")
    assert GRepQ.from_pretrained("grepq-hl", cache_dir=clip_cache, local_files_only=True).weights_id == model.weights_id


def test_both_pathways_are_the_packaged_one_and_clip(clip_hub, clip_cache, photos):
    both = GRepQ.from_pretrained("grepq", cache_dir=clip_cache)
    low = GRepQ.from_pretrained("grepq-ll").components(photos["rocket"])
    high = GRepQ.from_pretrained("grepq-hl", cache_dir=clip_cache).components(photos["rocket"])
    parts = both.components(photos["rocket"])
    assert torch.equal(parts["low"], low["score"])
    assert torch.equal(parts["high"], high["score"])
    assert parts["score"].item() == pytest.approx((low["score"] + high["score"]).item(), abs=1e-7)
    assert both.provenance["low"] == GRepQ.from_pretrained("grepq-ll").provenance


PLAIN = """
from grepq_metric import GRepQ
cache = sys.argv[1]
GRepQ.from_pretrained("grepq-ll")
GRepQ.from_pretrained("grepq", cache_dir=cache, pathways=["low"])
print("before", file=sys.stderr)
GRepQ.from_pretrained("grepq", cache_dir=cache)
GRepQ.from_pretrained("grepq-hl", cache_dir=cache)
"""


def test_plain_clip_is_said_once_in_a_process_and_not_of_other_weights(clip_hub, clip_cache, clip_file):
    for name in ("grepq", "grepq-hl"):
        GRepQ.from_pretrained(name, cache_dir=clip_cache)
    process = run(PINNED + PLAIN, str(clip_cache), sha256(clip_file))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    before, after = err.split("before\n")
    assert "CLIP" not in before
    assert after.splitlines() == [f"grepq: {catalog.PLAIN_CLIP_NOTE}"]


def test_plain_clip_is_named_by_info_the_card_and_the_harness(clip_hub, clip_cache, tmp_path):
    from benchmarks.harness.metrics import open_metric

    model = GRepQ.from_pretrained("grepq-hl", cache_dir=clip_cache)
    model.save_pretrained(tmp_path)  # the record goes where the weights go
    assert f"**Note:** {model.note}." in (tmp_path / "README.md").read_text()
    (folder,) = (path.parent for path in clip_cache.rglob("config.json") if path.parent.name.startswith("grepq-hl-"))
    assert f"**Note:** {model.note}." in (folder / "README.md").read_text()
    assert model.provenance["high"].startswith("OpenAI CLIP RN50, not fine-tuned, so not as in the paper")
    described = json.loads(grepq("info", tmp_path).stdout.partition("\n")[2])
    assert described["note"] == model.note == catalog.PLAIN_CLIP_NOTE
    assert "note" not in json.loads(grepq("info", "grepq-ll").stdout.partition("\n")[2])
    built_in = dict(part.split(", tag", 1) for part in grepq("info").stdout.split("\n\n")[1:] if ", tag" in part)
    assert [name for name, text in built_in.items() if catalog.PLAIN_CLIP_NOTE in text] == ["grepq-hl", "grepq"]
    assert open_metric(f"grepq-hl:weights={tmp_path}").provenance["plain_clip"] == model.note
    assert "plain_clip" not in open_metric("grepq-ll").provenance


@pytest.mark.slow
def test_two_processes_at_once_leave_one_whole_cache(clip_hub, clip_file, tmp_path):
    processes = [run(PINNED + SCORE, "grepq-hl", sha256(clip_file), HF_HOME=str(tmp_path)) for _ in range(2)]
    results = [p.communicate(timeout=300) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], results
    assert results[0][0] == results[1][0] != ""
    assert len(assembled(tmp_path)) == 1
    assert not list(tmp_path.rglob(".grepq*"))


def test_no_network_says_what_to_do_and_offline_uses_the_cache(own_weights, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    offline = run(SCORE, "grepq", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    unreachable = run(SCORE, "grepq", HF_HOME=str(tmp_path), HF_ENDPOINT=nowhere)
    for process in (offline, unreachable):
        message = message_of(process)
        assert "WeightsError" in message
        for advice in ("HF_ENDPOINT", "weights folder", "grepq-ll"):
            assert advice in message
    assert not assembled(tmp_path)
    online = run(SCORE, own_weights, HF_HOME=str(tmp_path)).communicate(timeout=300)[0]
    offline = run(SCORE, own_weights, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1").communicate(timeout=300)[0]
    assert online == offline != ""


def test_a_repository_with_a_revision(own_weights, hub, tmp_path):
    expected = GRepQ.from_pretrained("grepq-ll").weights_id
    assert GRepQ.from_pretrained(own_weights, cache_dir=tmp_path).weights_id == expected
    assert GRepQ.from_pretrained(own_weights, cache_dir=tmp_path, revision=COMMIT, token="hf_secret").weights_id == expected
    assert all(f"/resolve/{COMMIT}/" in path for _, path, _ in hub.requests if path.endswith(".safetensors"))
    with pytest.raises(WeightsError, match="no revision 'v9'"):
        GRepQ.from_pretrained(own_weights, cache_dir=tmp_path, revision="v9")


def test_the_token_is_sent(own_weights, hub, tmp_path):
    GRepQ.from_pretrained(own_weights, cache_dir=tmp_path, token="hf_secret")
    assert {authorization for _, _, authorization in hub.requests} == {"Bearer hf_secret"}


def test_a_missing_repository_and_a_foreign_one(hub, tmp_path):
    with pytest.raises(WeightsError, match="no repository tester/absent"):
        GRepQ.from_pretrained("tester/absent", cache_dir=tmp_path)
    hub.repositories["tester/foreign"] = {"config.json": b'{"pathways": ["low"]}'}
    with pytest.raises(WeightsError, match=r"has no model\.safetensors"):
        GRepQ.from_pretrained("tester/foreign", cache_dir=tmp_path)
    with pytest.raises(WeightsError, match="no repository timm"):
        GRepQ.from_pretrained("grepq", cache_dir=tmp_path)


@pytest.mark.parametrize("status", [403, 418, 429, 500, 503])
def test_the_status_of_the_hub_is_in_the_message_at_once(own_weights, hub, tmp_path, status):
    hub.faults.add(f"status-{status}")
    began = time.monotonic()
    with pytest.raises(WeightsError, match=rf"{status}.*config\.json of tester/mine"):
        GRepQ.from_pretrained(own_weights, cache_dir=tmp_path)
    assert time.monotonic() - began < 5
    assert len(hub.requests) == 1


@pytest.mark.parametrize(("fault", "message"), [("portal", "no Hub: a captive portal"), ("redirect", "cannot reach")])
def test_what_is_no_hub_is_told(own_weights, hub, tmp_path, fault, message):
    hub.faults.add(fault)
    with pytest.raises(WeightsError, match=message):
        GRepQ.from_pretrained(own_weights, cache_dir=tmp_path)
    hub.faults.clear()
    assert GRepQ.from_pretrained(own_weights, cache_dir=tmp_path).weights_id.startswith("grepq-ll-")


def test_a_wait_that_the_hub_asks_for_has_a_bound(own_weights, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_hub, "STALLED", 1.0)
    hub.faults.add("wait")
    began = time.monotonic()
    with pytest.raises(WeightsError, match="nothing has come for 1 seconds"):
        GRepQ.from_pretrained(own_weights, cache_dir=tmp_path)
    assert time.monotonic() - began < 10


def test_a_page_in_the_place_of_a_config_does_not_stay_in_the_cache(own_weights, hub, tmp_path):
    hub.faults.add("page")
    with pytest.raises(WeightsError, match=r"not a config of GRepQ weights.*removed from the cache"):
        GRepQ.from_pretrained(own_weights, cache_dir=tmp_path)
    hub.faults.clear()
    assert GRepQ.from_pretrained(own_weights, cache_dir=tmp_path).weights_id.startswith("grepq-ll-")


def test_an_etag_that_is_a_path_writes_nothing_outside_of_the_cache(own_weights, hub, tmp_path):
    hub.faults.add("escape")
    with pytest.raises(WeightsError, match="do not trust it"):
        GRepQ.from_pretrained(own_weights, cache_dir=tmp_path / "cache")
    assert not list(tmp_path.rglob("escaped*"))


def test_no_name_resolution_fails_fast_and_in_one_line(tmp_path):
    began = time.monotonic()
    process = run(SCORE, "grepq", HF_HOME=str(tmp_path), HF_ENDPOINT="http://no-such-host.invalid")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "cannot reach the Hub" in err
    assert "Retrying" not in out + err
    assert time.monotonic() - began < 30


def test_a_built_in_name_takes_only_the_file_that_is_pinned(hub, clip_file, tmp_path, monkeypatch):
    hub.repositories[CLIP_RN50.repository] = {CLIP_RN50.name: clip_file}
    monkeypatch.setattr(catalog, "ENTRIES", pin("0" * 64))
    with pytest.raises(WeightsError, match="another file than the one that this release pins"):
        GRepQ.from_pretrained("grepq-hl", cache_dir=tmp_path)
    assert not assembled(tmp_path)
    with pytest.raises(ValueError, match="one revision for ever"):
        GRepQ.from_pretrained("grepq-hl.da0baa37", cache_dir=tmp_path, revision="main")


@pytest.mark.parametrize("fault", ["truncate", "wrong-hash", "error"])
def test_a_failed_download_leaves_a_cache_that_works_next_time(own_weights, hub, tmp_path, fault):
    hub.faults.add(fault)
    with pytest.raises(WeightsError, match=r"try again|Try again"):
        GRepQ.from_pretrained(own_weights, cache_dir=tmp_path)
    hub.faults.clear()
    assert GRepQ.from_pretrained(own_weights, cache_dir=tmp_path).weights_id.startswith("grepq-ll-")


@pytest.mark.parametrize(("status", "message"), [(401, "401.*Check HF_TOKEN"), (404, "404"), (416, "416")])
def test_other_statuses_are_one_message_at_once(own_weights, hub, tmp_path, status, message):
    hub.faults.add(f"status-{status}")
    began = time.monotonic()
    with pytest.raises(WeightsError, match=message):
        GRepQ.from_pretrained(own_weights, cache_dir=tmp_path)
    assert time.monotonic() - began < 5
    hub.faults.clear()
    assert GRepQ.from_pretrained(own_weights, cache_dir=tmp_path).weights_id.startswith("grepq-ll-")


@pytest.mark.parametrize("fault", ["headers-drip", "drip"])
def test_a_server_that_sends_byte_by_byte_is_given_up(own_weights, hub, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(weights_hub, "STALLED", 1.0)
    hub.faults.add(fault)
    began = time.monotonic()
    with pytest.raises(WeightsError, match="nothing has come for 1 seconds"):
        GRepQ.from_pretrained(own_weights, cache_dir=tmp_path)
    assert time.monotonic() - began < 10
    hub.faults.clear()
    assert GRepQ.from_pretrained(own_weights, cache_dir=tmp_path / "other").weights_id.startswith("grepq-ll-")


@pytest.mark.parametrize("fault", [None, "wrong-hash", "truncate", "error", "portal"])
def test_content_from_elsewhere_is_checked_and_is_not_told_the_token(own_weights, hub, tmp_path, fault):
    other = HubServer()
    other.start()
    try:
        other.repositories.update(hub.repositories)
        other.faults.update({fault} - {None})
        hub.other = other.url.replace("127.0.0.1", "localhost")
        hub.faults.add("elsewhere")
        if fault is not None:
            with pytest.raises(WeightsError, match=r"[Tt]ry again"):
                GRepQ.from_pretrained(own_weights, cache_dir=tmp_path, token="hf_secret")
            other.faults.clear()
        found = GRepQ.from_pretrained(own_weights, cache_dir=tmp_path, token="hf_secret")
        assert found.weights_id == GRepQ.from_pretrained("grepq-ll").weights_id
        assert other.requests
        assert {authorization for _, _, authorization in other.requests} == {None}
    finally:
        other.stop()


def test_an_unfinished_file_that_is_too_long_does_not_stay_in_the_way(own_weights, hub, tmp_path):
    """The server answers 416: there is nothing behind what is there."""
    content = hub.content("tester/mine", "model.safetensors")
    blobs = tmp_path / "models--tester--mine" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hub.digest(content)}.incomplete").write_bytes(bytes(len(content) + 5))
    with contextlib.suppress(WeightsError):  # once, if at all
        GRepQ.from_pretrained(own_weights, cache_dir=tmp_path)
    assert GRepQ.from_pretrained(own_weights, cache_dir=tmp_path).weights_id.startswith("grepq-ll-")


def test_a_clock_that_is_wrong_does_not_matter(own_weights, hub, tmp_path, monkeypatch):
    real = time.time
    for years, fault in ((30, None), (-30, None), (0, "skew")):
        hub.faults.update({fault} - {None})
        monkeypatch.setattr(time, "time", lambda years=years: real() + years * 365 * 86400)
        cache = tmp_path / f"{years}{fault}"
        assert GRepQ.from_pretrained(own_weights, cache_dir=cache).weights_id.startswith("grepq-ll-")


def test_a_clip_of_another_kind_is_refused(hub, tmp_path, monkeypatch):
    from safetensors.torch import save

    content = save({"visual.conv1.weight": torch.zeros(1)})
    hub.repositories[CLIP_RN50.repository] = {CLIP_RN50.name: content}
    monkeypatch.setattr(catalog, "ENTRIES", pin(hashlib.sha256(content).hexdigest()))
    with pytest.raises(WeightsError, match="not a full CLIP"):
        GRepQ.from_pretrained("grepq-hl", cache_dir=tmp_path)
    monkeypatch.undo()
    assert not assembled(tmp_path)
    with pytest.raises(WeightsError, match="not a full CLIP"):
        GRepQ.from_pretrained("grepq-hl", cache_dir=tmp_path, revision="main")
    assert not assembled(tmp_path)


def test_a_full_disk_while_downloading_and_while_assembling(clip_hub, clip_cache, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    GRepQ.from_pretrained("grepq-hl", cache_dir=clip_cache)
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "hf_hub_download", full)
        with pytest.raises(WeightsError, match=r"No space left.*HF_HOME"):
            GRepQ.from_pretrained("grepq-hl", cache_dir=tmp_path)
    GRepQ.from_pretrained("grepq", cache_dir=clip_cache)
    folders = [p for p in clip_cache.rglob("grepq-*") if (p / "config.json").exists() and not p.name.startswith("grepq-hl-")]
    assert len(folders) == 1
    shutil.rmtree(folders[0])
    before = assembled(clip_cache)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "save_file", full)
        with pytest.raises(WeightsError, match=r"No space left.*HF_HOME"):
            GRepQ.from_pretrained("grepq", cache_dir=clip_cache)
    assert assembled(clip_cache) == before
    assert not list(clip_cache.rglob(".grepq*"))


def test_pushed_weights_come_back(hub, tmp_path, photos):
    model = GRepQ.from_pretrained("grepq-ll")
    model.push_to_hub("tester/pushed", token="hf_secret")
    assert sorted(hub.repositories["tester/pushed"]) == ["README.md", "config.json", "model.safetensors"]
    card = hub.content("tester/pushed", "README.md").decode()
    assert model.weights_id in card
    assert "library_name: grepq-metric" in card
    back = GRepQ.from_pretrained("tester/pushed", cache_dir=tmp_path)
    assert back.weights_id == model.weights_id
    assert torch.equal(back(photos["cat"]), model(photos["cat"]))
