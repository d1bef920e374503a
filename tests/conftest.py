"""Shared fixtures: real photos, weights of known values, and a local server that speaks the Hub's HTTP API.

The server is started, and the Hub client pointed to it, before the client is first imported: it reads its settings then.
"""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from tests.hub_server import HubServer

SHARED = Path(__file__).parents[2] / "shared"


def pytest_configure(config):
    if "PYTEST_XDIST_WORKER" in os.environ:  # each process has a core, and threads of theirs would be in each other's way
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job in the background, and in all that it starts
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.hub = HubServer()
    config.hub.start()
    config.hub_home = tempfile.TemporaryDirectory(prefix="grepq-test-hub-", ignore_cleanup_errors=True)
    os.environ.update(
        HF_ENDPOINT=config.hub.url, HF_HOME=config.hub_home.name, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1"
    )
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "GREPQ_METRIC_AUTOLOAD"):
        os.environ.pop(name, None)


def pytest_unconfigure(config):
    if hasattr(config, "hub"):
        config.hub.stop()
        config.hub_home.cleanup()


@pytest.fixture
def hub(pytestconfig):
    """The local Hub, without faults and without what another test has uploaded."""
    pytestconfig.hub.reset()
    yield pytestconfig.hub
    pytestconfig.hub.reset()


def real_photos():
    """Real photos of different sizes as ``(1, 3, H, W)``, by name; scikit-image ships them."""
    import skimage.data
    import torch

    crops = {
        "astronaut": skimage.data.astronaut()[:300, :260],
        "coffee": skimage.data.coffee()[:, :500],
        "cat": skimage.data.chelsea(),
        "rocket": skimage.data.rocket()[100:260, 200:420],
        "retina": skimage.data.retina()[500:700, 400:720],
        "stereo": skimage.data.stereo_motorcycle()[0][200:296, 300:396],
    }
    return {k: torch.from_numpy(v.copy()).permute(2, 0, 1).unsqueeze(0).float() / 255 for k, v in crops.items()}


@pytest.fixture(scope="session")
def photos():
    """See `real_photos`."""
    return real_photos()


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory, photos):
    """The same photos as PNG files."""
    from torchvision.utils import save_image

    folder = tmp_path_factory.mktemp("photos")
    for name, photo in photos.items():
        save_image(photo, folder / f"{name}.png")
    return folder


def randomise(module, seed):
    """Give every tensor of a network values that keep activations finite and no two units alike."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            noise = noise.abs() + 0.5
        elif name.endswith("running_mean") or name.endswith("bias"):
            noise = 0.1 * noise
        elif value.ndim < 2:
            noise = 1 + 0.1 * noise
        else:
            noise = noise / max(value[0].numel(), 1) ** 0.5
        value.copy_(noise)


def random_model(photos):
    """A model of both pathways with random networks and pristine statistics of real patches: for numbers, not for quality."""
    import torch

    from grepq_metric import GRepQ

    model = GRepQ(name="random")
    randomise(model.low.encoder, 1)
    randomise(model.high.visual, 2)
    generator = torch.Generator().manual_seed(3)
    model.high.text_features.copy_(torch.nn.functional.normalize(torch.randn(2, 1024, generator=generator), dim=-1))
    model.low.fit_pristine(patches_of(photo, 40) for photo in photos.values())
    return model.requires_grad_(False)


def patches_of(photo, step):
    """Patches ``(N, 3, 96, 96)`` of a photo ``(1, 3, H, W)``, every `step` pixels."""
    return photo.unfold(2, 96, step).unfold(3, 96, step).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


@pytest.fixture(scope="session")
def model(photos):
    """See `random_model`."""
    return random_model(photos)


TINY = {"layers": [1, 1, 1, 1], "width": 16, "output_dim": 64}


@pytest.fixture(scope="session")
def tiny_clip():
    """Tensors of a high-level pathway whose image tower has the shape `TINY`, with random values."""
    import torch

    from grepq_metric.pathways import HighLevelConfig, HighLevelPathway, ImageTower

    pathway = HighLevelPathway(HighLevelConfig(image_tower=ImageTower(**TINY)))
    randomise(pathway.visual, 5)
    generator = torch.Generator().manual_seed(6)
    pathway.text_features.copy_(torch.nn.functional.normalize(torch.randn(2, 64, generator=generator), dim=-1))
    return {k: v.clone() for k, v in pathway.state_dict().items()}


def random_clip():
    """State dict of a whole CLIP RN50 with random values, in open_clip's layout."""
    import open_clip

    from grepq_metric.pathways.high import ARCHITECTURE

    clip = open_clip.CLIP(**open_clip.get_model_config(ARCHITECTURE))
    randomise(clip, 4)
    return clip.state_dict()


@pytest.fixture(scope="session")
def clip_state():
    """See `random_clip`."""
    return random_clip()


def save_half(state, path):
    """A state dict as a float16 safetensors file; its path."""
    from safetensors.torch import save_file

    save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)
    return path


@pytest.fixture(scope="session")
def clip_file(clip_state, tmp_path_factory):
    """The same as a float16 safetensors file, named as on the Hub."""
    return save_half(clip_state, tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors")


def authors_files(folder, model, patches):
    """Files with the layout of the authors' release and the values of `model`: ``low``, ``high`` and ``pristine``."""
    import h5py
    import torch

    children = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    state = {"encoder.base_model.fc.weight": torch.rand(1000, 512), "encoder.base_model.fc.bias": torch.rand(1000)}
    for key, value in model.low.encoder.state_dict().items():
        if key.startswith("head."):
            state[key] = value
            continue
        name = key.removeprefix("backbone.")
        child, _, rest = name.partition(".")
        state[f"encoder.base_model.{name}"] = state[f"encoder.resnet18.{children[child]}.{rest}"] = value
    low = folder / "low_level_model_weights.tar"
    stepped = torch.optim.AdamW([torch.rand(3, requires_grad=True)])
    stepped.param_groups[0]["params"][0].sum().backward()
    stepped.step()
    optimizer = {"state_dict": stepped.state_dict()}
    torch.save({"model": {"state_dict": state}, "current_iteration": 7, "optimizer": optimizer}, low)
    high = folder / "high_level_model_weights.pth"
    positional = {"attnpool.positional_embedding": torch.rand(50, 2048)}
    torch.save({**model.high.visual.state_dict(), **positional}, high)
    pristine = folder / "pristine_patches_096_0.75_0.80.hdf5"
    with h5py.File(pristine, "w") as file:
        file["data"] = patches.numpy()
    return {"low": low, "high": high, "pristine": pristine}


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real opinion scores, which a checkout may lack."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: real opinion scores are not on this machine")
    return folder
