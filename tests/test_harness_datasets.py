"""Promises of the harness's datasets: strict tables, ids that follow content, and whole images."""

import numpy as np
import pytest
from PIL import Image, ImageFile

from benchmarks.harness.datasets import open_dataset
from benchmarks.harness.metrics import open_metric
from benchmarks.harness.protocols import splits
from benchmarks.harness.sources import RECORDS
from benchmarks.harness.specs import safe_name
from tests.harness_data import rate, write_csv


@pytest.fixture(scope="module")
def rated(tmp_path_factory, photos):
    return rate(tmp_path_factory.mktemp("rated"), photos)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (["image", "mos"], [["a.png", 1], ["a.png", 2]], r"names a\.png twice"),
        (["image", "mos"], [["a.png", "nan"]], r"score of a\.png is nan, expected a finite number"),
        (["image", "mos"], [["a.png", "good"]], "line 2: expected a number as 'mos', got 'good'"),
        (["image", "score"], [["a.png", 1]], "has no column 'mos', it has"),
        (["image", "mos"], [], "holds no images"),
        (["image", "mos"], [["a.png", 1], ["b.png", 2]], r"partial copy: 2 of 2 images are missing, for example a\.png"),
        (
            ["image", "mos", "split", "content"],
            [["a", 1, "test", "g"], ["b", 1, "train", "g"]],
            "content g is both in the test",
        ),
        (["image", "mos", "split"], [["a", 1, "training"]], "line 2: expected train, val, test or nothing as split"),
        (["mos", "image"], [[1, ""]], "line 2: no image in the column 'image'"),
        (["image", "mos"], [["a.png"]], "line 2: expected 2 fields as in the header, got 1: 'a.png'"),
        (["image", "mos"], [["a.png", 1, 692]], "line 2: expected 2 fields .* got 3: 'a.png,1,692'; is a decimal comma"),
        (["image", "mos"], [["a.png", "1,692"]], "line 2: expected a number as 'mos', got '1,692': .*decimal point"),
        (["image", "mos"], [["a.png", "1_692"]], "line 2: expected a number as 'mos', got '1_692'"),
        (["image;mos"], [["a.png;1"]], "separate fields by commas, not semicolons"),
        (["image", "mos", "mos"], [["a.png", 1, 2]], "has the column 'mos' twice"),
    ],
)
def test_bad_datasets_are_refused(tmp_path, header, rows, message):
    path = write_csv(tmp_path / "labels.csv", header, rows)
    with pytest.raises(ValueError, match=message):
        open_dataset(str(path), tmp_path)


def test_unknown_names_come_with_the_closest(tmp_path):
    with pytest.raises(ValueError, match=r"unknown dataset 'koniq10'.*did you mean 'koniq10k'"):
        open_dataset("koniq10", tmp_path)
    with pytest.raises(ValueError, match=r"unknown metric 'grepq_ll'; did you mean .*grepq-ll"):
        open_metric("grepq_ll")
    with pytest.raises(ValueError, match="expected name:key=value"):
        open_metric("psnr:fast")
    with pytest.raises(ValueError, match="unknown option 'speed' of grepq-ll, expected some of weights, head, features"):
        open_metric("grepq-ll:speed=3")


def test_a_dataset_id_changes_with_content(rated, tmp_path):
    first = open_dataset(str(rated), tmp_path)
    assert first.id == open_dataset(str(rated / "labels.csv"), tmp_path).id
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in rated.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert open_dataset(str(copy), tmp_path).id.split("-")[-1] == first.id.split("-")[-1]
    Image.new("RGB", (96, 96)).save(copy / "3_1.png")
    assert open_dataset(str(copy), tmp_path).id.split("-")[-1] != first.id.split("-")[-1]
    (copy / "3_1.png").unlink()
    partial = open_dataset(str(copy), tmp_path, allow_partial=True)
    assert partial.absent == ["3_1.png"]
    assert len(partial.items) == 79


def test_the_direction_of_scores_is_part_of_an_id(rated, tmp_path):
    plain, turned = (open_dataset(f"{rated}{option}", tmp_path) for option in ("", ":lower_better=TRUE"))
    assert plain.id != turned.id
    assert (turned.mos == -plain.mos).all()
    path = write_csv(tmp_path / "theirs.csv", ["image", "score"], [["a", 1]])
    assert open_metric(str(path)).id != open_metric(f"{path}:lower_better=true").id
    for spec, message in (
        (f"{rated}:lower_better=no", "lower_better of a CSV file must be like False, got 'no'"),
        (f"{rated}:low=abc", "low of a CSV file must be like -inf, got 'abc'"),
        (f"{rated}:high=1,speed=2", "unknown option 'speed' of a CSV file"),
    ):
        with pytest.raises(ValueError, match=message):
            open_dataset(spec, tmp_path)
    with pytest.raises(ValueError, match="unknown option 'path' of a file of scores"):
        open_metric(f"{path}:path=x")
    write_csv(path, ["image", "score"], [["a", 1], ["a", 2]])
    with pytest.raises(ValueError, match="names a twice"):
        open_metric(str(path))


def test_an_undistorted_image_belongs_to_its_content(rated, tmp_path):
    rows = [[str(rated / f"original_{c}.png"), 5, ""] for c in range(20)]
    rows += [[str(rated / f"{c}_2.png"), 2, str(rated / f"original_{c}.png")] for c in range(20)]
    dataset = open_dataset(str(write_csv(tmp_path / "labels.csv", ["image", "mos", "reference"], rows)), tmp_path)
    assert len(set(dataset.contents)) == 20
    for train, test in splits([item.split for item in dataset.items], dataset.contents, 5, 0):
        assert not {dataset.contents[i] for i in train} & {dataset.contents[i] for i in test}


def test_folders_as_their_authors_ship_them(tmp_path, monkeypatch):
    def image(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (10, 200, 30)).save(path)

    for name in ("1.jpg", "2.jpg"):
        image(tmp_path / "BIQ2021/Images" / name)
        image(tmp_path / "AGIQA-3K/file" / name)
        image(tmp_path / "AGIQA-1K/file" / name)
        image(tmp_path / "koniq10k/512x384" / name)
        image(tmp_path / "CSIQ/dst_imgs/awgn" / name)
    image(tmp_path / "CSIQ/src_imgs/ref.png")
    for split, name in (("Train", "1.jpg"), ("Test", "2.jpg")):
        write_csv(tmp_path / f"BIQ2021/{split} (Images and MOS).csv", ["Image Name", "MOS"], [[name, 0.5]])
    write_csv(tmp_path / "AGIQA-3K/data.csv", ["name", "prompt", "mos_quality"], [["1.jpg", "cat", 1.5], ["2.jpg", "dog", 2]])
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("openpyxl")
    table = pandas.DataFrame({"Image": ["1.jpg", "2.jpg"], "Prompt": ["cat", "dog"], "MOS": [2.5, 3.5]})
    table.to_excel(tmp_path / "AGIQA-1K/AIGC_MOS_Zscore.xlsx", index=False)
    (tmp_path / "meta_info").mkdir()
    write_csv(
        tmp_path / "meta_info/meta_info_KonIQ10kDataset.csv",
        ["img_name", "mos", "official_split"],
        [["1.jpg", 60, "train"], ["2.jpg", 70, "test"]],
    )
    write_csv(
        tmp_path / "meta_info/meta_info_CSIQDataset.csv",
        ["ref", "dist", "mos"],
        [["ref.png", "awgn/1.jpg", 0.1], ["ref.png", "awgn/2.jpg", 0.4]],
    )
    found = {}
    for name in ("biq2021", "agiqa-1k", "agiqa-3k", "koniq10k", "csiq"):
        with pytest.raises(ValueError, match=r"partial copy: .* of .* images are missing"):
            open_dataset(name, tmp_path)
        found[name] = open_dataset(name, tmp_path, allow_partial=True)
        assert len(found[name].items) == 2
    assert [item.split for item in found["biq2021"].items] == ["train", "test"]
    assert found["agiqa-1k"].mos.tolist() == [2.5, 3.5]
    assert found["agiqa-3k"].mos.tolist() == [1.5, 2]
    assert [(item.name, item.mos, item.split) for item in found["koniq10k"].items] == [
        ("1.jpg", 60, "train"),
        ("2.jpg", 70, "test"),
    ]
    assert found["csiq"].mos.tolist() == [-0.1, -0.4]  # a DMOS: lower is better
    assert found["csiq"].contents == ["ref.png"] * 2
    with pytest.raises(FileNotFoundError, match="pyiqa cannot load tid2013"):
        open_dataset("tid2013", tmp_path)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES  # or damaged photos would count as whole from now on


def test_toy_is_labelled_synthetic_and_grows_worse(tmp_path):
    toy = open_dataset("toy", tmp_path)
    assert toy.record.kind == "synthetic"
    assert len(toy.items) == toy.record.images
    by_name = {item.name: item for item in toy.items}
    clean = np.asarray(Image.open(by_name["coffee/original.png"].path), float)
    errors = [
        np.square(np.asarray(Image.open(by_name[f"coffee/JPEG_{i}.png"].path), float) - clean).mean() for i in range(1, 6)
    ]
    assert errors == sorted(errors)
    assert open_dataset("toy", tmp_path).id == toy.id


def test_contents_and_splits_change_no_id_so_that_nothing_is_scored_again(rated, tmp_path):
    rows = [[str(rated / f"{c}_{level}.png"), 4 - level] for c in range(20) for level in range(4)]
    plain = open_dataset(str(write_csv(tmp_path / "labels.csv", ["image", "mos"], rows)), tmp_path)
    more = [[*row, f"content {i // 4}", "test" if i < 8 else "train"] for i, row in enumerate(rows)]
    rich = open_dataset(str(write_csv(tmp_path / "labels.csv", ["image", "mos", "content", "split"], more)), tmp_path)
    assert rich.id == plain.id
    assert rich.parts_sha256 != plain.parts_sha256
    assert len(set(rich.contents)) == 20
    assert len(set(plain.contents)) == 80
    more[0][1] += 0.5
    other = open_dataset(str(write_csv(tmp_path / "labels.csv", ["image", "mos", "content", "split"], more)), tmp_path)
    assert other.id != rich.id


def test_a_column_group_means_nothing(rated, tmp_path):
    rows = [[str(rated / f"{c}_0.png"), 4, "same"] for c in range(20)]
    dataset = open_dataset(str(write_csv(tmp_path / "labels.csv", ["image", "mos", "group"], rows)), tmp_path)
    assert len(set(dataset.contents)) == 20


def test_half_a_photo_is_refused_where_other_code_has_pillow_tolerate_it(rated, tmp_path, monkeypatch):
    whole = (rated / "original_0.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(OSError, match="truncated"):
        RECORDS["spaq"].load(tmp_path / "half.png")
    assert ImageFile.LOAD_TRUNCATED_IMAGES  # what other code has chosen stays


@pytest.mark.parametrize("name", ["../../evil", "a/b", ".hidden", "a\\b", "a\nb"])
def test_a_name_that_an_option_gives_is_no_path(name):
    with pytest.raises(ValueError, match="must hold no slash and not begin with a dot"):
        safe_name(name)
    assert safe_name("my set 2") == "my set 2"
