"""Promise: a release does not change the scores of the packaged weights, on photos that scikit-image ships.

The values are those of f5e832c, before the package was rearranged (torch 2.14.1, CPU, float32). A change here is a change of
what a score means: it needs new weights, with a new tag, and a line in the CHANGELOG.
"""

import pytest
import torch

SCORES = {
    "astronaut": (0.48837233, 4.651914),
    "coffee": (0.49299186, 2.803434),
    "cat": (0.48943365, 4.227167),
    "rocket": (0.45997390, 16.044773),
    "retina": (0.41135553, 35.836452),
    "stereo": (0.48157230, 7.374423),
}
"""Score and distance by photo, see the fixture `photos`."""


@pytest.mark.parametrize("name", SCORES)
def test_scores_of_the_packaged_weights_are_frozen(photos, name):
    from grepq_metric import GRepQ

    model = GRepQ.from_pretrained("grepq-ll")
    assert model.weights_id == "grepq-ll-8690ed2c"
    with torch.inference_mode():
        parts = model.components(photos[name])
    score, distance = SCORES[name]
    assert parts["score"].item() == pytest.approx(score, abs=1e-5)
    assert parts["distance"].item() == pytest.approx(distance, rel=1e-4)
