"""What everything that maps images to numbers promises, tested in one place (as torchmetrics' ``MetricTester`` does).

A test class names its subject by inheriting from `MetricTester`, or from `ModuleTester` where the subject is an ``nn.Module``
whose weights a user may convert. It says how the subject is made and called and what its numbers should be by formulas that
are not its own (`tests.reference`); the promises are inherited. A promise that holds for one kind of subject alone is a test
of that class, in ``tests/test_metric_like.py``.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grepq_metric.errors import InputError
from tests.reference import reference_score

WRONG_SCALES = {
    "[-1, 1]": (lambda x: 2 * x - 1, r"\[-1, 1\]"),
    "[0, 255]": (lambda x: 255 * x, r"\[0, 255\]"),
}
"""Other scales of images that are in use: how to get there from [0, 1], and the range that a message should name."""
HALF_TOLERANCE = {torch.float16: 1e-4, torch.bfloat16: 4e-3}
"""Of Q_L where the network or its weights are of 16 bits: ten bits of a number are kept, or seven."""
HALF_TOLERANCE_SEMANTIC = {torch.float16: 2e-3, torch.bfloat16: 3e-2}
"""The same of Q_S, whose scale is wider and whose network has more layers."""


def full_range(x: Tensor) -> Tensor:
    """The images stretched so that each has its black at 0 and its white at 1."""
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return (x - low) / (high - low)


class MetricTester:
    """Promises of a subject that gives one number for each image.

    Attributes:
        tolerance: of a number computed in another way in float32: in a batch, from another memory layout, by the formulas.
        scale: of its numbers, by which tolerances grow; that of GRepQ's score is 1.
        weights: the built-in name that it is tested with.
    """

    weights = "grepq-ll"

    tolerance = 1e-6
    scale = 1.0

    def make(self) -> Any:
        """A subject with the packaged weights."""
        raise NotImplementedError

    def each(self, subject: Any, x: Tensor) -> Tensor:
        """What the subject gives for images ``(N, C, H, W)``: ``(N,)``."""
        raise NotImplementedError

    def expected(self, subject: Any, image: Tensor) -> Tensor:
        """What it should give for one image ``(1, 3, H, W)``, by the formulas in float64 and differentiable: a scalar."""
        return reference_score(self.model(subject), image)

    def model(self, subject: Any) -> Any:
        """The `GRepQ` in a subject."""
        return subject.model

    def to_cuda(self, subject: Any) -> Any:
        """The subject on the graphics card."""
        return subject.cuda()

    def calls(self, subject: Any) -> dict[str, Callable[[Tensor], Any]]:
        """All ways in which images reach the subject, by name."""
        return {"call": lambda x: self.each(subject, x)}

    def half_tolerance(self, subject: Any, dtype: torch.dtype) -> float:
        """Of a number where the network or its weights are of 16 bits."""
        tolerances = HALF_TOLERANCE if self.model(subject).semantic is None else HALF_TOLERANCE_SEMANTIC
        return self.scale * tolerances[dtype]

    def gradient(self, subject: Any, x: Tensor) -> Tensor:
        """The gradient of the sum of what it gives with respect to the images."""
        x = x.detach().clone().requires_grad_()
        self.each(subject, x).sum().backward()
        assert x.grad is not None
        return x.grad

    @pytest.fixture(scope="class")
    def subject(self) -> Any:
        """One subject for all promises; a test that changes it makes its own."""
        return self.make()

    @pytest.fixture(scope="class")
    def images(self, photos: dict[str, Tensor]) -> Tensor:
        """Three real photos of one size, with two patches each."""
        return torch.cat([photos[name][..., :96, :144] for name in ("cat", "coffee", "retina")])

    @pytest.fixture(scope="class")
    def expectations(self, subject: Any, images: Tensor) -> Tensor:
        """Their numbers by the formulas: ``(3,)`` float64."""
        return torch.stack([self.expected(subject, x) for x in images.split(1)]).detach()

    def test_its_numbers_are_those_of_the_formulas(self, subject: Any, images: Tensor, expectations: Tensor) -> None:
        got = self.each(subject, images).detach()
        assert got.shape == (3,)
        assert got.double() == pytest.approx(expectations, abs=10 * self.scale * self.tolerance)
        assert len(set(got.tolist())) == 3

    def test_results_are_float32_or_float64_as_the_images_are(self, subject: Any, images: Tensor) -> None:
        expected = self.each(subject, images).detach().double()
        for dtype, result in ((torch.float32, torch.float32), (torch.float64, torch.float64)):
            got = self.each(subject, images.to(dtype)).detach()
            assert got.dtype == result
            assert got.double() == pytest.approx(expected, abs=self.scale * self.tolerance)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_images_of_16_bits_are_taken_and_give_float32(self, subject: Any, images: Tensor, dtype: torch.dtype) -> None:
        got = self.each(subject, images.to(dtype)).detach()
        rounded = self.each(subject, images.to(dtype).float()).detach()
        assert got.dtype == torch.float32
        assert torch.equal(got, rounded)  # the images are rounded, and nothing else

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_autocast_moves_numbers_little(self, subject: Any, images: Tensor, dtype: torch.dtype) -> None:
        expected = self.each(subject, images).detach()
        with torch.autocast("cpu", dtype):
            got = self.each(subject, images).detach()
        assert got.dtype == torch.float32
        assert got == pytest.approx(expected, abs=self.half_tolerance(subject, dtype))

    def test_a_batch_gives_what_its_images_give_alone(self, subject: Any, images: Tensor) -> None:
        together = self.each(subject, images).detach()
        alone = torch.cat([self.each(subject, x).detach() for x in images.split(1)])
        assert together == pytest.approx(alone, abs=self.scale * self.tolerance)
        turned = self.each(subject, images.flip(0)).detach()
        assert turned.flip(0) == pytest.approx(together, abs=self.scale * self.tolerance)

    def test_the_layout_in_memory_does_not_matter(self, subject: Any, images: Tensor) -> None:
        expected = self.each(subject, images).detach()
        strided = torch.empty(*images.shape[:3], 2 * images.shape[3])[..., ::2].copy_(images)
        assert not strided.is_contiguous()
        for same in (strided, images.to(memory_format=torch.channels_last)):
            assert self.each(subject, same).detach() == pytest.approx(expected, abs=self.scale * self.tolerance)

    def test_it_gives_the_same_every_time_and_leaves_no_trace(self, subject: Any, images: Tensor) -> None:
        before, state = images.clone(), torch.get_rng_state()
        first = self.each(subject, images).detach()
        assert torch.equal(self.each(subject, images).detach(), first)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(images, before)
        assert torch.equal(self.each(self.make(), images).detach(), first)

    def test_grey_is_three_equal_channels(self, subject: Any, images: Tensor) -> None:
        grey = images.mean(1, keepdim=True)
        assert torch.equal(self.each(subject, grey), self.each(subject, grey.repeat(1, 3, 1, 1)))

    def test_the_gradient_is_that_of_the_formulas(self, subject: Any, images: Tensor) -> None:
        x = images[:1]
        got = self.gradient(subject, x)
        exact = x.double().requires_grad_()
        (expected,) = torch.autograd.grad(self.expected(subject, exact), exact)
        assert expected.abs().max() > 0
        assert (got - expected).norm() / expected.norm() < 1e-2  # a ReLU near 0 may be on its other side in float32

    def test_gradients_are_finite_and_reach_every_image(self, subject: Any, images: Tensor) -> None:
        gradient = self.gradient(subject, torch.cat([images, torch.zeros_like(images[:1])]))
        assert gradient.isfinite().all()
        assert (gradient[:3].abs().amax((1, 2, 3)) > 0).all()

    def test_gradients_flow_after_a_first_call_without(self, images: Tensor) -> None:
        subject = self.make()
        with torch.inference_mode():
            self.each(subject, images[:1])
        assert self.gradient(subject, images[:1]).abs().max() > 0

    def test_weights_get_no_gradients(self, subject: Any, images: Tensor) -> None:
        self.gradient(subject, images[:1])
        assert all(parameter.grad is None for parameter in self.model(subject).parameters())

    @pytest.mark.parametrize("scale", WRONG_SCALES)
    def test_another_scale_is_refused_by_its_name(self, subject: Any, images: Tensor, scale: str) -> None:
        change, message = WRONG_SCALES[scale]
        for call in self.calls(subject).values():
            with pytest.raises(InputError, match=message):
                call(change(full_range(images)))

    def test_one_image_of_another_scale_in_a_batch_is_refused(self, subject: Any, images: Tensor) -> None:
        batch = full_range(images)
        batch[1] = 2 * batch[1] - 1
        for call in self.calls(subject).values():
            with pytest.raises(InputError, match=r"\[-1, 1\]"):
                call(batch)

    def test_a_value_outside_is_refused_from_a_thousandth_on(self, subject: Any, images: Tensor) -> None:
        inside, outside = full_range(images), full_range(images)
        inside[0, 0, 0, 0], inside[1, 0, 0, 0] = -9e-4, 1 + 9e-4
        outside[0, 0, 0, 0] = 1.0021
        assert self.each(subject, inside).isfinite().all()
        for call in self.calls(subject).values():
            with pytest.raises(InputError, match=r"\[0, 1\].*1\.0021"):
                call(outside)

    def test_nan_is_refused(self, subject: Any, images: Tensor) -> None:
        broken = images.clone()
        broken[1, 2, 3, 4] = torch.nan
        for call in self.calls(subject).values():
            with pytest.raises(InputError, match=r"(?i)nan"):
                call(broken)

    def test_shapes_that_are_no_batch_of_images_are_named(self, subject: Any, images: Tensor) -> None:
        for x in (images[0, 0], images[:, :2], images[:0]):
            with pytest.raises((InputError, AssertionError)):  # pyiqa asserts before we see it
                self.each(subject, x)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
    def test_cuda_gives_what_the_cpu_gives(self, images: Tensor) -> None:
        expected = self.each(self.make(), images).detach()
        got = self.each(self.to_cuda(self.make()), images.cuda()).detach()
        assert got.device.type == "cuda"
        assert got.cpu() == pytest.approx(expected, abs=100 * self.scale * self.tolerance)


class ModuleTester(MetricTester):
    """Promises of a subject that is an ``nn.Module``."""

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_weights_of_16_bits_move_numbers_little(self, images: Tensor, dtype: torch.dtype) -> None:
        subject = self.make()
        expected = self.each(subject, images).detach()
        got = self.each(subject.to(dtype), images).detach()
        assert got.dtype == torch.float32
        assert got == pytest.approx(expected, abs=self.half_tolerance(subject, dtype))

    def test_gradients_are_those_of_finite_differences(self, images: Tensor) -> None:
        subject = self.make().double()
        x = images[1:2, :, :96, :96].double().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda v: self.each(subject, v), x, eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=True, nondet_tol=0
        )

    def test_train_changes_nothing(self, images: Tensor) -> None:
        subject = self.make()
        before = {key: value.clone() for key, value in subject.state_dict().items()}
        expected = self.each(subject, images).detach()
        nn.ModuleDict({"of_a_network": subject}).train()
        assert not any(module.training for module in self.model(subject).modules())
        assert torch.equal(self.each(subject, images).detach(), expected)
        assert all(torch.equal(value, before[key]) for key, value in subject.state_dict().items())

    def test_copies_and_pickles_give_the_same(self, images: Tensor) -> None:
        subject = self.make()
        expected = self.each(subject, images[:1]).detach()
        stream = io.BytesIO()
        torch.save(subject, stream)
        stream.seek(0)
        for same in (copy.deepcopy(subject), torch.load(stream, weights_only=False)):
            assert torch.equal(self.each(same, images[:1]).detach(), expected)
