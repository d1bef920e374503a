"""Promise: a release does not change the scores of the packaged weights, on photos that scikit-image ships.

``frozen.json`` has them by tag. A tag's values are written once, by ``python -m tests.test_frozen``, and stay: a change of
theirs is a change of what a score means, which needs new weights, with a new tag, and a line in the CHANGELOG.
"""

import json
from pathlib import Path

import pytest
import torch

from grepq_metric import catalog, load_model

FROZEN = Path(__file__).with_name("frozen.json")
"""By tag and photo (see the fixture `photos`): score and, with the low-level pathway, distance."""
TAGS = [entry.tag for entry in catalog.ENTRIES if not entry.download]


def measured(tag, photos):
    """Score and distance of each photo, of the weights of a tag."""
    model, found = load_model(tag), {}
    for name, photo in photos.items():
        with torch.inference_mode():
            parts = model.components(photo)
        found[name] = {key: round(parts[key].item(), 8) for key in ("score", "distance") if parts.get(key) is not None}
    return found


@pytest.mark.parametrize("tag", TAGS)
def test_scores_of_the_packaged_weights_are_frozen(photos, tag):
    frozen = json.loads(FROZEN.read_text(encoding="utf-8"))
    assert tag in frozen, "a new tag: run `python -m tests.test_frozen`"
    assert load_model(tag).weights_id == tag.replace(".", "-")
    got = measured(tag, photos)
    assert set(got) == set(frozen[tag])
    for name, expected in frozen[tag].items():
        assert set(got[name]) == set(expected)
        assert got[name]["score"] == pytest.approx(expected["score"], abs=1e-5), name
        if "distance" in expected:
            assert got[name]["distance"] == pytest.approx(expected["distance"], rel=1e-4), name


def test_no_frozen_tag_is_unknown():
    assert set(json.loads(FROZEN.read_text(encoding="utf-8"))) == set(TAGS)


def add_new_tags():
    """Measure the tags that have no values yet, and forget those that the catalog no longer has."""
    from tests.conftest import real_photos

    known = json.loads(FROZEN.read_text(encoding="utf-8"))
    values = {tag: known[tag] if tag in known else measured(tag, real_photos()) for tag in TAGS}
    FROZEN.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    add_new_tags()
