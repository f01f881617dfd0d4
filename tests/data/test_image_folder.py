"""Folders of images: layout, order, classes, sizes, and what is wrong with them in one line."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torchvision.datasets import ImageFolder as TorchvisionFolder

from atras.data import load
from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.planning import Speed, calibration
from atras.results import read
from atras.running import run
from made_files import arrays, refused, write_idx
from made_images import encoded, noise, write_folder, write_image


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "insects")


def same_as_torchvision(split, folder):
    expected = TorchvisionFolder(str(folder))
    pixels = [torch.from_numpy(np.array(image).transpose(2, 0, 1)) for image, _ in expected]
    return torch.equal(split.images, torch.stack(pixels)) and split.labels.tolist() == expected.targets


class TestLayout:
    def test_images_classes_and_order_are_those_of_torchvision(self, folder):
        for name in (
            "Zebra/far/9.png",
            "Zebra/a.png",
            "Zebra/far/deep/1.JPEG",
            "Zebra/far-off/1.png",
            "ant/more/x.bmp",
            "ant/10.png",
        ):
            write_image(folder / "train" / name, noise(8, 8, 3, seed=len(name)))
        found = load(str(folder))
        assert same_as_torchvision(found.train, folder / "train")
        assert found.class_names == ("Zebra", "ant", "bee")
        assert (found.name, found.image_shape) == ("insects", (3, 8, 8))

    @pytest.mark.parametrize("parts", [("train", "val"), ("Training", "TEST"), ("train", "validation")])
    def test_parts_have_their_usual_names(self, tmp_path, parts):
        found = load(str(write_folder(tmp_path / "insects", parts=parts)))
        assert (len(found.train), len(found.test), found.cautions) == (8, 4, ())

    def test_of_test_and_validation_the_first_is_taken_and_the_other_named(self, folder):
        write_folder(folder, parts=("train", "val"), test=7)
        found = load(str(folder))
        assert len(found.test) == 4
        assert found.cautions[0].startswith("data: not used is the validation part of insects")

    def test_test_images_without_classes_leave_the_validation_part(self, folder):
        write_folder(folder, parts=("train", "val"), test=3)
        for each in (folder / "test").iterdir():
            each.rename(folder / each.name)
        write_image(folder / "test" / "0.png", noise(8, 8, 3))
        assert len(load(str(folder)).test) == 6

    def test_other_files_and_hidden_folders_are_passed_over(self, folder):
        before = load(str(folder)).provenance()
        for name in ("Thumbs.db", "ant/Thumbs.db", "ant/notes.txt", "ant/._0.png", ".ipynb_checkpoints/0.png"):
            path = folder / "train" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"other")
        assert load(str(folder)).provenance() == before

    def test_names_that_are_no_utf8_are_read(self, folder, tmp_path):
        folder = folder.rename(tmp_path / os.fsdecode(b"insects\xff"))
        for part in ("train", "test"):
            place = folder / part / os.fsdecode(b"caf\xe9")
            place.mkdir()
            (place / os.fsdecode(b"\xff.png")).write_bytes(encoded(noise(8, 8, 3)))
        found = load(str(folder))
        assert (found.name, found.class_names) == ("insects\\udcff", ("ant", "bee", "caf\\udce9"))
        assert found.train.labels.tolist() == [0] * 4 + [1] * 4 + [2]

    def test_links_are_followed_and_never_in_a_circle(self, folder):
        elsewhere = folder.with_name("elsewhere")
        write_image(elsewhere / "x.png", noise(8, 8, 3))
        (folder / "train" / "ant" / "linked").symlink_to(elsewhere)
        (folder / "train" / "ant" / "up").symlink_to("../..")
        (folder / "train" / "ant" / "round").symlink_to(".")
        (elsewhere / "back").symlink_to(folder / "train" / "ant")
        assert load(str(folder)).provenance()["train_class_counts"] == [5, 4]

    def test_idx_files_beside_a_folder_of_that_name_are_read(self, tmp_path):
        write_idx(tmp_path, arrays())
        write_image(tmp_path / "test" / "x.png", noise(8, 8, 3))
        assert load(str(tmp_path)).image_shape == (1, 5, 5)


class TestRefusals:
    def test_a_folder_of_classes_without_parts(self, folder):
        refused(
            "expected a folder with train-images-idx3-ubyte",
            "or of images in train/CLASS and test/CLASS",
            name=folder / "train",
        )

    def test_a_part_without_classes(self, folder):
        for path in (folder / "train").rglob("*.png"):
            path.rename(folder / "train" / f"{path.parent.name}-{path.name}")
        for path in (folder / "train").iterdir():
            if path.is_dir():
                path.rmdir()
        refused(f"{folder}/train: expected a folder for each class, got ant-0.png", name=folder)

    @pytest.mark.parametrize("part", ["train", "test"])
    def test_a_part_that_is_missing(self, folder, part):
        (folder / part).rename(folder / "other")
        refused(f"{folder}: expected train/CLASS/*.jpg", "got other, ", name=folder)

    def test_a_class_without_images(self, folder):
        (folder / "train" / "cat").mkdir()
        (folder / "train" / "cat" / "notes.txt").touch()
        refused(f"{folder}/train/cat: expected images (", "got notes.txt; add some, or remove the folder", name=folder)

    def test_a_class_that_leads_back_up(self, folder):
        (folder / "train" / "cat").symlink_to("..")
        refused(f"{folder}/train/cat: expected images (", name=folder)

    def test_test_classes_that_have_no_training_images(self, folder):
        write_image(folder / "test" / "wasp" / "0.png", noise(8, 8, 3))
        refused(f"{folder}/test: expected classes of train, got wasp, which it has not", name=folder)

    def test_a_class_that_test_images_lack_is_a_caution_with_its_name(self, folder):
        write_image(folder / "train" / "wasp" / "0.png", noise(8, 8, 3))
        assert any("no test image of 4 is of class 2 (wasp), but" in text for text in load(str(folder)).cautions)

    def test_images_of_several_sizes_without_a_size_to_bring_them_to(self, folder):
        write_image(folder / "train" / "bee" / "1.png", noise(9, 12, 3))
        refused(
            "train/bee/1.png: expected images of one size without --image-size, got 12 x 9, where train/ant/0.png has "
            "8 x 8; add --image-size, such as --image-size 8",
            name=folder,
        )
        assert load(str(folder), image_size=6).image_shape == (3, 6, 6)

    def test_a_test_part_of_another_size(self, tmp_path):
        write_folder(tmp_path / "d", parts=("train", "test"))
        write_folder(tmp_path / "d", parts=("other", "test"), image=(5, 5, 3))
        refused("test/ant/0.png: expected images of one size", "where the training part has 8 x 8", name=tmp_path / "d")

    @pytest.mark.parametrize("name", ["digits", "mnist"])
    def test_an_image_size_for_images_that_are_none_of_files(self, name):
        refused("image_size (=8): expected with a folder of images", "leave it out", name=name, image_size=8)

    def test_an_image_size_for_an_npz_file(self, tmp_path):
        np.savez(tmp_path / "x.npz", 1)
        refused("image_size (=8): expected with a folder of images", name=tmp_path / "x.npz", image_size=8)


class TestRun:
    def test_a_run_on_a_folder_records_how_it_was_decoded_and_the_names_of_its_classes(
        self, folder, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(calibration, "_measure", lambda *_: Speed(1e-3, 1e9, 1e9, 1e9))
        protocol = Protocol(
            dataset=str(folder), candidates=(Candidate((4,)),), image_size=6, epochs=1, adversarial_epochs=1
        )
        run(protocol, Execution(engine="loop", device="cpu"), out=tmp_path / "run")
        found = read(tmp_path / "run")
        data = found.run["data"]
        assert (data["class_names"], data["image_shape"]) == (["ant", "bee"], [3, 6, 6])
        assert (data["decoding"]["image_size"], data["decoding"]["broken"]) == (6, 0)
        assert found.run["protocol"]["image_size"] == 6
