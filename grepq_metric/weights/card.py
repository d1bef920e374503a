"""The model card of a weights folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grepq_metric.catalog import PLAIN_CLIP, PLAIN_CLIP_NOTE

CARD_MARK = "<!-- Written by grepq-metric, which replaces this file: remove this line to keep your changes. -->"
TEMPLATE = """---
{{ card_data }}
---

{{ mark }}

# {{ weights_id }}

Weights of {{ method }}, for the Python package
`grepq-metric`. Higher scores are better.

```python
from grepq_metric import {{ model }}

model = {{ model }}.from_pretrained("THIS_REPOSITORY_OR_FOLDER")
score = model(images)  # (N, 3, H, W) RGB in [0, 1] -> (N, 1)
```

Pathways: {{ pathways }}.
{% if note %}
**Note:** {{ note }}.
{% endif %}
## Where these weights come from

{{ provenance }}
{% if terms %}
## Terms of the training photos, as their sources state them

{{ terms }}
{% endif %}
## Measured

{{ results or "Nothing that has been recorded here." }}

## Limits

{{ limits }}
"""
"""Filled with the facts of `card_facts`, and with `terms` and `results` where they are given."""
_METHODS = {
    "GRepQ": "GRepQ, a no-reference image quality metric (WACV 2024, https://arxiv.org/abs/2312.04838)",
    "QFMIQM": "QFM-IQM, our reading, a no-reference image quality metric after a paper (ICML 2024, "
    "https://arxiv.org/abs/2312.06158) whose authors had no part in it: their figures are not those of these weights",
}
_LIMITS = {
    "low": "- The low-level pathway knows distortions, not content: it can't tell a well composed photo from a dull one, and "
    "takes a smooth or blurred background for a loss of quality. Resizing a photo changes its score.",
    "semantic": "- The semantic pathway learned from full-reference metrics on synthetic distortions: it was not told what "
    "people like, and knows the things of ImageNet better than others.",
    "high": "- The high-level pathway judges a photo as CLIP understands the words of two prompts, with CLIP's biases; it was "
    "not made to judge people or places.",
    "decoder": "- The decoder says what the people would say whose ratings it was taught, of photos like those that they saw. "
    "Other people, screens and photos may differ.",
}


def note_on(pathways: Sequence[str], provenance: Mapping[str, Any]) -> str:
    """What whoever quotes scores of weights must know, a sentence; empty: nothing.

    Args:
        pathways: of the model: weights that have a high-level pathway may be loaded without it.
        provenance: of the weights. Who made a high-level pathway of the authors' files, or trained one, has another record.
    """
    plain = "high" in pathways and str(provenance.get("high", "")).startswith(PLAIN_CLIP)
    return PLAIN_CLIP_NOTE if plain else ""


def card_facts(model: str, weights_id: str, pathways: Sequence[str], provenance: Mapping[str, Any]) -> dict[str, str]:
    """What a card says of weights of a kind of model, by the names of `TEMPLATE`."""
    facts = [f"- {key}: {_plain(value)}" for key, value in provenance.items()] or ["- not recorded"]
    limits = ["- Scores of different weights are not comparable; rank photos, or fit scores to your own ratings."]
    return {
        "mark": CARD_MARK,
        "model": model,
        "method": _METHODS[model],
        "weights_id": weights_id,
        "pathways": ", ".join(pathways),
        "note": note_on(pathways, provenance),
        "provenance": "\n".join(facts),
        "limits": "\n".join([*limits, *(_LIMITS[pathway] for pathway in pathways)]),
    }


def _plain(value: Any) -> str:
    """A fact of the record as a person would write it."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {_plain(v)}" for key, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
