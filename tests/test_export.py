"""Promises of graphs: torch.compile and torch.export of the whole score, ONNX of the encoders and of the semantic score."""

import pytest
import torch

from grepq_metric import GRepQ
from tests.conftest import TINY

SIZES = ((144, 160), (200, 300), (250, 421))


@pytest.fixture(scope="module", params=["grepq-ll", "grepq-sem", "grepq-lite"])
def packaged(request):
    return GRepQ.from_pretrained(request.param).requires_grad_(False)


def images(size, seed=0):
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def test_the_score_exports_at_one_size(packaged):
    x = images((128, 160))
    program = torch.export.export(packaged, (x,))
    assert program.module()(x) == pytest.approx(packaged(x), abs=1e-6)


def exports_for_any_size(model):
    sides = {2: torch.export.Dim("height", min=144, max=8192), 3: torch.export.Dim("width", min=144, max=8192)}
    program = torch.export.export(model, (images((200, 290)),), dynamic_shapes={"x": sides})
    for size in SIZES:
        assert program.module()(images(size)) == pytest.approx(model(images(size)), abs=1e-6)


@pytest.mark.slow  # the sizes of the semantic pathway's padding take a minute to work out
def test_the_score_exports_for_any_size(packaged):
    exports_for_any_size(packaged)


def test_the_score_of_the_papers_pathways_exports_for_any_size(tiny_clip):
    model = GRepQ(image_tower=TINY, dense=True).requires_grad_(False)
    model.low.load_state_dict(GRepQ.from_pretrained("grepq-ll").low.state_dict())
    model.high.load_state_dict(tiny_clip)
    model(images(SIZES[0]))  # what is not loaded as a whole is checked in the first call
    exports_for_any_size(model)


@pytest.mark.slow
def test_the_semantic_score_exports_to_onnx_for_any_size(tmp_path):
    """The whole of it: there is nothing in it that ONNX lacks."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = GRepQ.from_pretrained("grepq-sem").requires_grad_(False)
    dims = {0: torch.export.Dim("batch", min=1, max=64)}
    dims |= {2: torch.export.Dim("height", min=96, max=8192), 3: torch.export.Dim("width", min=96, max=8192)}
    path = tmp_path / "semantic.onnx"
    torch.onnx.export(model, (images((200, 290)),), path, dynamo=True, dynamic_shapes={"x": dims}, verbose=False)
    session = onnxruntime.InferenceSession(path)
    for size in (*SIZES, (96, 131)):
        (found,) = session.run(None, {session.get_inputs()[0].name: images(size).numpy()})
        assert found == pytest.approx(model(images(size)), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "dynamic"), [("aot_eager", True), ("inductor", True), ("inductor", None)])
def test_the_score_compiles_as_one_graph(backend, dynamic):
    packaged = GRepQ.from_pretrained("grepq-ll").requires_grad_(
        False
    )  # of the others it takes many minutes, not waited for yet
    torch.compiler.reset()
    compiled = torch.compile(packaged, backend=backend, fullgraph=True, dynamic=dynamic)
    for size in SIZES:
        assert compiled(images(size)) == pytest.approx(packaged(images(size)), abs=1e-6)


@pytest.mark.parametrize("pathway", ["low", pytest.param("high", marks=pytest.mark.slow)])
def test_encoders_export_to_onnx(model, pathway, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    encoder = model.low.encoder if pathway == "low" else model.high
    x, shapes = images((96, 96)), {"x": {0: torch.export.Dim("batch", min=1, max=1024)}}
    torch.onnx.export(encoder, (x,), tmp_path / "encoder.onnx", dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    for batch in (1, 5):
        x = torch.rand(batch, 3, 96, 96, generator=torch.Generator().manual_seed(batch))
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert found == pytest.approx(encoder(x), rel=0, abs=2e-5)
