"""Promises of all that gives a number for an image: the model, the function, the torchmetrics class, the loss, pyiqa's metric
and the regressor. What they share is in `tests.metric_tester`; what each promises beyond that stands here.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grepq_metric import QFMIQM, GRepQ, GRepQLoss, GRepQRegressor, catalog, grepq
from grepq_metric.errors import InputError
from grepq_metric.integrations.piq import loaded
from tests.metric_tester import HALF_TOLERANCE_SEMANTIC, WRONG_SCALES, MetricTester, ModuleTester, full_range
from tests.reference import encoder_values, reference_decoder, reference_encoder, reference_moments, reference_patches

ROOT = Path(__file__).parents[1]


@functools.cache
def packaged(weights: str) -> GRepQ:
    """Packaged weights, for numbers to compare with."""
    return GRepQ.from_pretrained(weights).requires_grad_(False)


class TestModel(ModuleTester):
    """`GRepQ` of the low-level pathway."""

    def make(self) -> GRepQ:
        return GRepQ.from_pretrained(self.weights).requires_grad_(False)

    def model(self, subject: GRepQ) -> GRepQ:
        return subject

    def each(self, subject: GRepQ, x: Tensor) -> Tensor:
        score = subject(x)
        assert score.shape == (len(x), 1)
        return score.squeeze(1)

    def calls(self, subject: GRepQ) -> dict[str, Callable[[Tensor], Any]]:
        found = {"forward": subject, "components": subject.components, "features": subject.features}
        if subject.semantic is not None:
            found["quality_map"] = subject.quality_map
        if subject.low is not None:
            found["features of patches"] = lambda x: subject.features(x, "patches")
            found["distance_map"] = subject.distance_map
        return found

    def test_gradients_of_gradients_are_finite(self, images: Tensor) -> None:
        x = images[:1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.each(self.make(), x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), x)
        assert second.isfinite().all()
        assert second.abs().max() > 0

    def test_features_are_those_of_the_formulas(self, subject: GRepQ, images: Tensor) -> None:
        assert subject.low is not None
        w = encoder_values(subject.low)
        for kind in ("image", "patches"):
            got = subject.features(images, kind)
            for row, x in zip(got, images.double().split(1), strict=True):
                z = reference_patches(x, w)
                expected = reference_encoder(x, w)[0] if kind == "image" else torch.cat([z.mean(0), z.std(0, correction=0)])
                assert (row - expected).norm() / expected.norm() < 1e-4


class TestSemanticModel(TestModel):
    """`GRepQ` of the semantic pathway."""

    weights = "grepq-sem"

    def test_features_are_those_of_the_formulas(self, subject: GRepQ, images: Tensor) -> None:
        assert subject.semantic is not None
        for row, x in zip(subject.features(images), images.split(1), strict=True):
            expected = reference_moments(x, subject.semantic)
            assert len(row) == len(expected) == 1120
            assert (row - expected).norm() / expected.norm() < 1e-5

    def test_the_gradient_reaches_every_pixel(self, subject: GRepQ, photos: dict[str, Tensor]) -> None:
        """Also at the edges of sizes that no stride divides."""
        gradient = self.gradient(subject, photos["cat"][..., :131, :203])
        assert (gradient.abs().amax(1) > 0).all()


class TestLiteModel(TestModel):
    """`GRepQ` of the low-level and the semantic pathway."""

    weights = "grepq-lite"

    def test_features_are_those_of_the_formulas(self, subject: GRepQ, images: Tensor) -> None:
        parts = [packaged(name).features(images) for name in ("grepq-sem", "grepq-ll")]
        assert torch.equal(subject.features(images), torch.cat(parts, 1))


class TestQFMIQM(ModuleTester):
    """`QFMIQM` as packaged."""

    weights = "qfm-iqm"
    tolerance = 3e-6

    def make(self) -> QFMIQM:
        return QFMIQM.from_pretrained(self.weights).requires_grad_(False)

    def model(self, subject: QFMIQM) -> QFMIQM:
        return subject

    def each(self, subject: QFMIQM, x: Tensor) -> Tensor:
        return subject(x).squeeze(1)

    def expected(self, subject: QFMIQM, image: Tensor) -> Tensor:
        return reference_decoder(subject.decoder, image)

    def calls(self, subject: QFMIQM) -> dict[str, Callable[[Tensor], Any]]:
        names = ("forward", "components", "features", "quality_map", "mos")
        return {name: getattr(subject, name) for name in names}

    def half_tolerance(self, subject: QFMIQM, dtype: torch.dtype) -> float:
        return 3 * HALF_TOLERANCE_SEMANTIC[dtype]  # of the tokens, deviations within a cell


class TestFunction(MetricTester):
    """`grepq`, by piq's conventions."""

    weights = catalog.DEFAULT

    def make(self) -> Callable[..., Tensor]:
        loaded.cache_clear()  # as at the first call in a process
        return functools.partial(grepq, reduction="none")

    def model(self, subject: Callable[..., Tensor]) -> GRepQ:
        return packaged(self.weights)

    def each(self, subject: Callable[..., Tensor], x: Tensor) -> Tensor:
        return subject(x)

    def to_cuda(self, subject: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return subject  # it computes where the images are

    def test_reductions_are_piqs_and_the_default_is_the_mean(self, images: Tensor) -> None:
        each = grepq(images, reduction="none")
        assert grepq(images).item() == pytest.approx(each.mean().item(), abs=1e-7)
        assert grepq(images, reduction="mean").item() == grepq(images).item()
        assert grepq(images, reduction="sum").item() == pytest.approx(each.sum().item(), abs=1e-6)
        assert grepq(images).shape == ()

    def test_bytes_and_another_data_range_give_the_same(self, images: Tensor, expectations: Tensor) -> None:
        for x in ((images * 255).round().byte(), images * 255):
            assert grepq(x, data_range=255, reduction="none").double() == pytest.approx(expectations, abs=1e-3)

    def test_a_data_range_that_does_not_fit_is_refused(self, images: Tensor) -> None:
        with pytest.raises(InputError, match="255"):
            grepq((images * 255).round().byte())
        with pytest.raises(InputError, match=r"\[-1, 1\]|-255"):
            grepq(full_range(images) * 510 - 255, data_range=255)

    def test_bad_settings_are_explained(self, images: Tensor) -> None:
        with pytest.raises(InputError, match="reduction must be one of none, mean, sum, got 'max'"):
            grepq(images, reduction="max")
        for value in (0, -1.0, float("nan"), float("inf")):
            with pytest.raises(InputError, match="data_range must be positive, got"):
                grepq(images, data_range=value)


class TestTorchmetrics(MetricTester):
    """`GRepQMetric`. It is a module whose ``half`` torchmetrics itself makes do nothing, and its numbers come from states."""

    weights = catalog.DEFAULT

    @pytest.fixture(autouse=True)
    def _needs_torchmetrics(self) -> None:
        pytest.importorskip("torchmetrics", reason="no torchmetrics in this environment")

    def make(self, **options: Any) -> Any:
        from grepq_metric.integrations.torchmetrics import GRepQMetric

        return GRepQMetric(**{"reduction": "none", **options})

    def each(self, subject: Any, x: Tensor) -> Tensor:
        return subject(x).reshape(len(x))  # torchmetrics makes a scalar of a result of one element

    def calls(self, subject: Any) -> dict[str, Callable[[Tensor], Any]]:
        return {"forward": subject, "update": subject.update}

    def test_torchmetrics_knows_what_it_is(self) -> None:
        from torchmetrics import Metric

        metric = self.make()
        assert isinstance(metric, Metric)
        assert metric.higher_is_better
        assert metric.is_differentiable

    def test_the_default_reduction_is_the_mean_over_all_images(self, images: Tensor, expectations: Tensor) -> None:
        from grepq_metric.integrations.torchmetrics import GRepQMetric

        metric = GRepQMetric()
        assert metric(images[1:2]).item() == pytest.approx(expectations[1].item(), abs=1e-6)
        metric.reset()
        metric.update(images)
        assert metric.compute().shape == ()
        assert metric.compute().dtype == torch.float32
        assert metric.compute().item() == pytest.approx(expectations.mean().item(), abs=1e-6)

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_several_updates_equal_one(self, images: Tensor, reduction: str) -> None:
        one, several = self.make(reduction=reduction), self.make(reduction=reduction)
        one.update(images)
        several.update(images[:1])
        several.update(images[1:])  # a batch of another size: the mean is over images, not over batches
        assert several.compute().numpy() == pytest.approx(one.compute().numpy(), abs=1e-6)
        several.reset()
        several.update(images)
        assert torch.equal(several.compute(), one.compute())

    def test_a_mean_of_nothing_warns_and_is_no_number(self) -> None:
        with pytest.warns(UserWarning, match="before"):
            assert self.make(reduction="mean").compute().isnan()

    def test_scores_of_each_image_stay_in_order(self, images: Tensor, expectations: Tensor) -> None:
        each = self.make(data_range=255)
        each.update(images * 255)
        each.update(images[:1] * 255)
        assert each.compute().double() == pytest.approx(torch.cat([expectations, expectations[:1]]), abs=1e-5)

    def test_bytes_are_taken_with_their_data_range(self, images: Tensor, expectations: Tensor) -> None:
        metric = self.make(data_range=255)
        metric.update((images * 255).round().byte())
        assert metric.compute().double() == pytest.approx(expectations, abs=1e-3)

    def test_a_refused_batch_leaves_the_states_alone(self, images: Tensor) -> None:
        metric = self.make(reduction="mean")
        metric.update(images[:1])
        with pytest.raises(InputError):
            metric.update(images * 255)
        expected = self.make(reduction="mean")
        expected.update(images[:1])
        assert torch.equal(metric.compute(), expected.compute())

    def test_a_collection_and_a_clone_have_states_of_their_own(self, images: Tensor, expectations: Tensor) -> None:
        from torchmetrics import MetricCollection

        metric = self.make(reduction="mean")
        metric.update(images)
        together = MetricCollection({"grepq": self.make(reduction="mean")})
        together.update(images)
        assert together.compute()["grepq"].item() == pytest.approx(expectations.mean().item(), abs=1e-6)
        clone = metric.clone()
        clone.update(images[:1])
        assert clone.compute() != metric.compute()

    def test_it_plots(self, images: Tensor) -> None:
        pytest.importorskip("matplotlib").use("Agg")
        metric = self.make(reduction="mean")
        metric.update(images)
        figure, axes = metric.plot()
        assert axes.lines or axes.collections
        assert figure is not None

    def test_bad_settings_are_explained(self) -> None:
        with pytest.raises(InputError, match="reduction must be mean or none, got 'sum'"):
            self.make(reduction="sum")
        with pytest.raises(InputError, match="data_range"):
            self.make(data_range=0)

    def test_two_processes_compute_what_one_does(self, images: Tensor, tmp_path: Path) -> None:
        """DDP on gloo; one process has two images and the other one, so that a mean of means would be wrong."""
        torch.save(images, tmp_path / "images.pt")
        command = [sys.executable, "-m", "tests.test_metric_like", str(tmp_path), "1"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        other = subprocess.Popen(command, env=environment, cwd=ROOT)
        try:
            share_of_one_process(tmp_path, 0)
            assert other.wait(timeout=60) == 0
        finally:
            other.kill()
        first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
        for reduction in ("mean", "none"):
            alone = self.make(reduction=reduction)
            alone.update(images)
            assert torch.equal(first[reduction], second[reduction])
            found = first[reduction] if reduction == "mean" else first[reduction][torch.tensor([0, 2, 1])]
            assert found.numpy() == pytest.approx(alone.compute().numpy(), abs=1e-6)


class TestLoss(ModuleTester):
    """`GRepQLoss` of the low-level pathway. A loss alone tolerates what a network in training overshoots."""

    scale = 2.0

    def make(self) -> GRepQLoss:
        return GRepQLoss(self.weights, reduction="none")

    def each(self, subject: GRepQLoss, x: Tensor) -> Tensor:
        return subject(x)

    def expected(self, subject: GRepQLoss, image: Tensor) -> Tensor:
        return 1 - self.scale * super().expected(subject, image)

    @pytest.mark.parametrize("scale", WRONG_SCALES)
    def test_another_scale_is_refused_by_its_name(self, subject: GRepQLoss, images: Tensor, scale: str) -> None:
        """It is not refused here, and noticed in the first call: once, and not in each of thousands."""
        change, message = WRONG_SCALES[scale]
        loss, wrong = self.make(), change(full_range(images))
        with pytest.warns(UserWarning, match=message):
            loss(wrong)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loss(wrong)

    def test_one_image_of_another_scale_in_a_batch_is_refused(self, subject: GRepQLoss, images: Tensor) -> None:
        """A batch is looked at as a whole: one such image of it is enough for the warning."""
        batch = full_range(images)
        batch[1] = 2 * batch[1] - 1
        with pytest.warns(UserWarning, match=r"\[-1, 1\]"):
            self.make()(batch)

    def test_a_value_outside_is_refused_from_a_thousandth_on(self, subject: GRepQLoss, images: Tensor) -> None:
        """An overshoot is neither refused nor worth a warning, and its gradient is finite."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gradient = self.gradient(self.make(), full_range(images) * 1.3 - 0.15)
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0

    def test_nan_is_refused(self, subject: GRepQLoss, images: Tensor) -> None:
        """NaN stays NaN, of that image alone, so that a gradient scaler skips the step."""
        broken = images.clone()
        broken[1, 2, 3, 4] = torch.nan
        assert self.make()(broken).isnan().tolist() == [False, True, False]

    def test_reductions_and_weight(self, images: Tensor) -> None:
        each = self.make()(images)
        assert GRepQLoss(self.weights)(images).item() == pytest.approx(each.mean().item(), rel=1e-6)
        weighted = GRepQLoss(self.weights, reduction="sum", loss_weight=3)
        assert weighted(images).item() == pytest.approx(3 * each.sum().item(), rel=1e-6)


class TestSemanticLoss(TestLoss):
    """`GRepQLoss` of the semantic pathway, which is the default."""

    scale = 1.0
    weights = catalog.DEFAULT

    def make(self) -> GRepQLoss:
        return GRepQLoss(reduction="none")


class TestLiteLoss(TestLoss):
    """`GRepQLoss` of both."""

    scale = 1 / 1.5
    weights = "grepq-lite"


class TestPyiqa(MetricTester):
    """pyiqa's metric around `GRepQArch`. Its own check of the range is off: it asserts, and as a loss it does not check."""

    @pytest.fixture(autouse=True)
    def _needs_pyiqa(self) -> None:
        pytest.importorskip("pyiqa", reason="no pyiqa in this environment")

    def make(self, **options: Any) -> Any:
        import pyiqa

        return pyiqa.create_metric(self.weights, device="cpu", check_input_range=False, **options)

    def model(self, subject: Any) -> GRepQ:
        return subject.net.model

    def each(self, subject: Any, x: Tensor) -> Tensor:
        score = subject(x)
        assert score.shape == (len(x), 1)
        return score.squeeze(1)

    def gradient(self, subject: Any, x: Tensor) -> Tensor:
        x = x.detach().clone().requires_grad_()
        self.make(as_loss=True, loss_reduction="sum")(x).backward()  # as a metric it computes without gradients
        assert x.grad is not None
        return x.grad

    def test_it_is_the_model_bit_for_bit(self, subject: Any, images: Tensor) -> None:
        assert torch.equal(subject(images), packaged(self.weights)(images))

    def test_pyiqas_own_check_of_the_range_works_as_for_others(self, images: Tensor) -> None:
        import pyiqa

        with pytest.raises(AssertionError, match="normalized"):
            pyiqa.create_metric(self.weights, device="cpu")(2 * full_range(images) - 1)


class TestSemanticPyiqa(TestPyiqa):
    """The same of the semantic pathway."""

    weights = "grepq-sem"


class TestLitePyiqa(TestPyiqa):
    """The same of both."""

    weights = "grepq-lite"


@functools.cache
def regressor() -> GRepQRegressor:
    """A head on features of patches, fitted to labels that are a smooth function of them: for numbers, not for quality."""
    generator = np.random.default_rng(0)
    model = GRepQ.from_pretrained("grepq-ll").requires_grad_(False)
    images = torch.rand(12, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    photos = torch.nn.functional.interpolate(images, size=(96, 96), mode="bicubic").clamp(0, 1)
    return GRepQRegressor(model, features="patches", kind="ridge").fit(photos, generator.uniform(1, 5, len(photos)).tolist())


class TestRegressor(MetricTester):
    """`GRepQRegressor.mos`, on labels of 1 to 5."""

    tolerance = 1e-5
    scale = 5.0

    def make(self) -> GRepQRegressor:
        return regressor()

    def half_tolerance(self, subject: GRepQRegressor, dtype: torch.dtype) -> float:
        """A head adds up hundreds of features that were rounded."""
        return 2 * super().half_tolerance(subject, dtype)

    def each(self, subject: GRepQRegressor, x: Tensor) -> Tensor:
        mos = subject.mos(x)
        assert mos.shape == (len(x), 1)
        return mos.squeeze(1)

    def expected(self, subject: GRepQRegressor, image: Tensor) -> Tensor:
        """Features by the formulas; the head is affine, and its coefficients are what `predict` does to unit vectors."""
        z = reference_patches(image.double(), encoder_values(self.model(subject).low))
        features = torch.cat([z.mean(0), z.std(0, correction=0).clamp_min(1e-6)])
        probes = subject.predict(np.vstack([np.zeros((1, 256)), np.eye(256)]))
        intercept, *coefficients = np.asarray(probes) - np.append(0, np.full(256, probes[0]))
        return features @ torch.tensor(coefficients, dtype=torch.float64) + float(intercept)

    def to_cuda(self, subject: GRepQRegressor) -> GRepQRegressor:
        import copy

        moved = copy.deepcopy(subject)
        self.model(moved).cuda()
        return moved

    def calls(self, subject: GRepQRegressor) -> dict[str, Callable[[Tensor], Any]]:
        def fit(x: Tensor) -> GRepQRegressor:
            return GRepQRegressor(subject.model, features="patches", kind="ridge").fit(x.repeat(2, 1, 1, 1), range(2 * len(x)))

        return {
            "mos": subject.mos,
            "predict": subject.predict,
            "predict a list": lambda x: subject.predict(list(x)),
            "fit": fit,
        }

    def test_mos_is_what_predict_says(self, subject: GRepQRegressor, images: Tensor) -> None:
        assert subject.mos(images).squeeze(1).detach().numpy() == pytest.approx(subject.predict(images), abs=1e-4)
        assert subject.predict(list(images)) == pytest.approx(subject.predict(images), abs=1e-4)


def share_of_one_process(folder: Path, rank: int) -> None:
    """What one of two processes of `TestTorchmetrics` does: its images are ``rank::2``."""
    from grepq_metric.integrations.torchmetrics import GRepQMetric

    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=2, timeout=timedelta(minutes=2))
    try:
        images = torch.load(folder / "images.pt", weights_only=True)
        found = {}
        for reduction in ("mean", "none"):
            metric = GRepQMetric(reduction=reduction)
            for image in images[rank::2].split(1):
                metric.update(image)
            found[reduction] = metric.compute()
        torch.save(found, folder / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    share_of_one_process(Path(sys.argv[1]), int(sys.argv[2]))
