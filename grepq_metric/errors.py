"""What this package raises on purpose. All of it is a `GRepQError`, which the command line shows as one line."""

from __future__ import annotations


class GRepQError(Exception):
    """Something that was to be expected, with a message that says what to do. Anything else that is raised is a defect."""


class InputError(GRepQError, ValueError):
    """A value is not what was expected; the message names both."""


class WeightsError(GRepQError, RuntimeError):
    """Weights cannot be had, or are not what they should be. The message says what to do."""


class TrainingError(GRepQError, RuntimeError):
    """A training run can't go on. The message says what is kept."""
