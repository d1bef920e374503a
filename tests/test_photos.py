"""Promises of photo lists: folders, text files and tar shards give the same photos, damaged ones are passed over and named."""

import pickle
import shutil
import tarfile

import pytest
import torch

from grepq_metric import read_image
from grepq_metric.training.photos import PhotoDataset, PhotoList, Sample, collate


@pytest.fixture(scope="module")
def sources(photo_folder, tmp_path_factory):
    """The same photos as a folder, a text file and two shards."""
    root = tmp_path_factory.mktemp("sources")
    files = sorted(photo_folder.iterdir())
    for number, part in enumerate((files[:3], files[3:])):
        with tarfile.open(root / f"shard-{number}.tar", "w") as tar:
            for file in part:
                tar.add(file, f"sample/{file.name}")
                (root / "label.json").write_text("{}")
                tar.add(root / "label.json", f"sample/{file.stem}.json")
    shutil.copytree(photo_folder, root / "next")
    (root / "list.txt").write_text("\n".join(f"next/{file.name}" for file in files) + "\n\n")
    (root / "shards").mkdir()
    for shard in root.glob("*.tar"):
        shard.rename(root / "shards" / shard.name)
    return {"folder": [photo_folder], "list": [root / "list.txt"], "shards": [root / "shards"]}


def test_all_kinds_of_sources_give_the_same_photos(sources, photo_folder):
    files = sorted(photo_folder.iterdir())
    for kind, source in sources.items():
        photos = PhotoList(source)
        assert len(photos) == len(files), kind
        for i, file in enumerate(files):
            assert torch.equal(photos.image(i), read_image(file)), kind
            assert photos.name(i).endswith(file.name), kind
    assert (
        PhotoList([*sources["folder"], *sources["shards"]]).name(2 * len(files) - 1).endswith("shard-1.tar/sample/stereo.png")
    )


def test_a_list_is_known_by_its_photos_and_not_by_where_it_lies(sources, photo_folder, tmp_path):
    moved = shutil.copytree(photo_folder, tmp_path / "moved")
    assert PhotoList([moved]).sha256 == PhotoList([photo_folder]).sha256
    (moved / "cat.png").write_bytes((moved / "cat.png").read_bytes() + b"x")
    assert PhotoList([moved]).sha256 != PhotoList([photo_folder]).sha256


def test_a_worker_gets_the_list_without_its_index(sources):
    photos = PhotoList(sources["shards"])
    data = pickle.dumps(photos)
    assert len(data) < 2000
    assert torch.equal(pickle.loads(data).image(4), photos.image(4))


def test_a_long_list_needs_little_memory(tmp_path):
    import tracemalloc

    (tmp_path / "long.txt").write_text("".join(f"/photos/of/somebody/{i:09d}.jpg\n" for i in range(200_000)))
    tracemalloc.start()
    photos = PhotoList([tmp_path / "long.txt"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(photos) == 200_000
    assert photos.name(123_456) == "/photos/of/somebody/000123456.jpg"
    assert peak < 2e6


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: d / "absent", FileNotFoundError, "absent"),
        (lambda d: (d / "empty").mkdir() or d / "empty", FileNotFoundError, "no photos in"),
        (lambda d: (d / "x.csv").write_text("a") and d / "x.csv", ValueError, r"x\.csv .* folder, a \.txt list or a \.tar"),
        (lambda d: (d / "x.tar").write_bytes(b"\x1f\x8b" + b"z" * 600) and d / "x.tar", ValueError, r"x\.tar is damaged"),
    ],
)
def test_sources_that_are_none_are_refused(tmp_path, make, error, message):
    with pytest.raises(error, match=message):
        PhotoList([make(tmp_path)])


class Names(PhotoDataset):
    def make(self, index, position):
        image = self.photos.image(index, 64)
        return (torch.tensor([index, image.shape[1]]),)


def test_damaged_small_and_absent_photos_are_passed_over_and_named(photo_folder, tmp_path):
    folder = shutil.copytree(photo_folder, tmp_path / "photos")
    whole = (folder / "cat.png").read_bytes()
    (folder / "cat.png").write_bytes(whole[: len(whole) // 2])
    read = read_image(folder / "coffee.png")
    from torchvision.utils import save_image

    save_image(read[:, :50], folder / "small.png")
    dataset = Names(PhotoList([folder]), seed=0)
    (folder / "rocket.png").unlink()
    samples = [dataset[i] for i in range(len(dataset.photos))]
    assert all(sample.tensors for sample in samples)
    skipped = {why for sample in samples for why in sample.skipped}
    assert len(skipped) == 3
    for name in ("cat.png", "small.png has 500x50 pixels, expected 64", "rocket.png"):
        assert any(name in why for why in skipped), name
    batch = collate(samples)
    assert batch.tensors[0].shape == (len(samples), 2)
    assert collate([samples[0], Sample(error="full")]).error == "full"


def test_too_many_unusable_photos_end_the_run_with_their_number(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"no photo")
    assert "3 photos in a row can't be used, the last one: " in Names(PhotoList([tmp_path]), seed=0)[0].error
