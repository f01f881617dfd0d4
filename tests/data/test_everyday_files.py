"""Data sets in the forms that people have them in: labels, axes, names of arrays and of files; and near misses."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from atras.data import load
from atras.data.idx_file import IDX_FILES
from atras.data.npz_file import array_of
from atras.errors import InputError
from atras.experiment import Execution, Protocol
from atras.networks import Candidate
from atras.running import make_plan, run
from made_files import arrays, idx_bytes, refused, write_idx, write_npz

LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class TestLabels:
    @pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float64, ">f4"])
    def test_one_hot_rows_are_their_classes_and_their_length_the_number_of_classes(self, tmp_path, dtype):
        rows = np.eye(5)[LABELS].astype(dtype)
        found = load(str(write_npz(tmp_path / "mine.npz", y_train=rows)))
        assert (found.train.labels.tolist(), found.classes) == (LABELS.tolist(), 5)

    @pytest.mark.parametrize("shape", [(6,), (6, 1)])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_whole_floats_are_labels(self, tmp_path, dtype, shape):
        found = load(str(write_npz(tmp_path / "mine.npz", y_train=LABELS.astype(dtype).reshape(shape))))
        assert (found.train.labels.tolist(), found.classes) == (LABELS.tolist(), 3)

    @pytest.mark.parametrize("shape", [(6,), (6, 1)])
    def test_truth_values_are_two_classes(self, tmp_path, shape):
        truth = np.array([True, False, True, True, False, False])
        made = {"y_train": truth.reshape(shape), "y_test": np.array([True, False, True, False])}
        found = load(str(write_npz(tmp_path / "mine.npz", **made)))
        assert (found.train.labels.tolist(), found.classes) == ([1, 0, 1, 1, 0, 0], 2)

    @pytest.mark.parametrize(
        ("labels", "part"),
        [
            (LABELS + np.array([0, 0, 0.25, 0, 0.5, 0]), "expected whole numbers from 0, got 2.25 as label 2"),
            (np.array([0, 1, np.nan, 0, 1, 2]), "got nan as label 2"),
            (np.array([0, 1, 2, 0, 1, np.inf]), "got inf as label 5"),
            (np.array([0, 1, 2, 0, 1, 1e300]), "got 1e+300 as label 5"),
            (np.array([0.0, 1, 2, 0, 1, -1]), "expected labels from 0 to 65535, got -1"),
            (np.zeros((6, 3), int), "or one-hot rows with a single 1, got (6, 3), in which row 0 (counted from 0) is"),
            (np.eye(3)[LABELS] * 0.9 + 0.03, "is [0.93, 0.03, 0.03]; give each image one class"),
            (np.eye(3, dtype=int)[LABELS] + np.eye(6, 3, dtype=int), "row 0 (counted from 0) is [2, 0, 0]"),
            (
                np.eye(3, dtype=int)[LABELS] | np.eye(6, 3, -3, dtype=int)[:, ::-1],
                "row 3 (counted from 0) is [1, 0, 1]",
            ),
            (np.ones((6, 20)), "is [1, 1, 1, 1, 1, 1, 1, 1, ...]"),
            (np.full((6, 2), np.nan), "is [nan, nan]"),
            (
                np.eye(5)[[0, 1, 2, 3, 4]],
                "one label for each image (6), got (5, 5); make them agree, or give one-hot rows",
            ),
            (np.zeros((6, 3, 1)), "one label for each image (6), got (6, 3, 1)"),
        ],
    )
    def test_other_labels_are_refused_with_the_first_that_is_wrong(self, tmp_path, labels, part):
        refused("y_train of", part, name=write_npz(tmp_path / "mine.npz", y_train=labels))

    def test_labels_beyond_the_one_hot_rows_of_the_other_part_are_refused(self, tmp_path):
        made = {"y_train": np.eye(3)[LABELS], "y_test": np.array([1, 2, 3, 1])}
        refused("expected labels below 3, the length", name=write_npz(tmp_path / "mine.npz", **made))

    def test_one_hot_rows_of_two_lengths_are_refused(self, tmp_path):
        made = {"y_train": np.eye(3)[LABELS], "y_test": np.eye(4)[[0, 1, 2, 3]]}
        refused("one-hot rows of one length, got 3 and 4", name=write_npz(tmp_path / "mine.npz", **made))


class TestChannels:
    @staticmethod
    def write(path, shape):
        rng = np.random.default_rng(0)
        made = {name: rng.integers(0, 256, (n, *shape), dtype=np.uint8) for name, n in (("x_train", 6), ("x_test", 4))}
        return write_npz(path, **made), made["x_train"]

    @pytest.mark.parametrize("channels", ["auto", "first"])
    @pytest.mark.parametrize("shape", [(3, 5, 7), (1, 5, 7), (4, 5, 5)])
    def test_few_channels_in_front_are_seen(self, tmp_path, shape, channels):
        path, images = self.write(tmp_path / "mine.npz", shape)
        found = load(str(path), channels=channels)
        assert found.image_shape == shape
        assert np.array_equal(found.train.images.numpy(), images)
        assert found.train.images.is_contiguous()

    @pytest.mark.parametrize(
        ("shape", "told"),
        [
            ((13, 8, 8), "(6, 13, 8, 8), which may be 13 channels of 8 x 8 or 8 channels of 13 x 8"),
            ((8, 8, 40), "8 channels of 8 x 40 or 40 channels of 8 x 8"),
            ((3, 8, 3), "3 channels of 8 x 3 or 3 channels of 3 x 8"),
            ((28, 28, 28), "28 channels of 28 x 28"),
        ],
    )
    def test_what_may_be_either_is_refused_until_it_is_said(self, tmp_path, shape, told):
        path, images = self.write(tmp_path / "mine.npz", shape)
        refused("x_train of", told, "--channels first or --channels last", name=path)
        assert np.array_equal(load(str(path), channels="first").train.images.numpy(), images)
        last = load(str(path), channels="last").train.images.numpy()
        assert np.array_equal(last, images.transpose(0, 3, 1, 2))

    def test_it_is_part_of_the_protocol_and_a_run_follows_it(self, tmp_path):
        path, _ = self.write(tmp_path / "mine.npz", (13, 8, 8))
        protocol = Protocol(
            dataset=str(path),
            channels="first",
            candidates=(Candidate((4,)),),
            epochs=1,
            adversarial_epochs=1,
            stem="none",
        )
        results = run(protocol, Execution(device="cpu"), out=tmp_path / "run")
        assert results.run["protocol"]["channels"] == "first"
        assert results.run["data"]["image_shape"] == [13, 8, 8]
        assert protocol.hash != protocol.replace(channels="last").hash

    def test_more_channels_than_the_kernels_take_are_left_to_other_engines(self, tmp_path):
        path, _ = self.write(tmp_path / "mine.npz", (40, 10, 10))
        protocol = Protocol(
            dataset=str(path), channels="first", candidates=(Candidate((4,)),), epochs=1, stem="conv2", precision="fp32"
        )
        assert make_plan(protocol, Execution(device="cpu")).engine != "fused"
        with pytest.raises(InputError, match=r"images of at most 31 channels, not 40"):
            make_plan(protocol, Execution(device="cpu", engine="fused"))

    def test_a_set_whose_axes_are_known_is_not_read_otherwise(self, tmp_path):
        refused("channels (='first'): the images of digits have theirs last", name="digits", channels="first")
        assert load("digits", channels="last").image_shape == (1, 8, 8)
        refused("channels (='second'): expected one of auto, first, last", name="digits", channels="second")


class TestNamesOfArrays:
    @pytest.mark.parametrize(
        "names",
        [
            ("train_images", "train_labels", "test_images", "test_labels"),
            ("X_train", "Y_train", "X_test", "Y_test"),
            ("X_train", "y_train", "X_test", "y_test"),
            ("trainX", "trainY", "testX", "testY"),
            ("images_train", "labels_train", "images_test", "labels_test"),
            ("train_data", "train_targets", "test_data", "test_targets"),
        ],
    )
    def test_usual_names_are_known_and_do_not_change_the_checksums(self, tmp_path, names):
        made = arrays()
        np.savez(tmp_path / "mine.npz", **dict(zip(names, made.values(), strict=True)))
        found, plain = load(str(tmp_path / "mine.npz")), load(str(write_npz(tmp_path / "plain.npz")))
        assert np.array_equal(found.train.images[:, 0].numpy(), made["x_train"])
        assert found.test.labels.tolist() == made["y_test"].tolist()
        assert found.sha256 == plain.sha256

    def test_a_file_of_medmnist_is_read_and_its_validation_part_said_to_be_unused(self, tmp_path):
        made = arrays(image=(28, 28, 3))
        parts = {"train": "train", "val": "test", "test": "test"}
        stored = {f"{part}_images": made[f"x_{of}"] for part, of in parts.items()}
        stored |= {f"{part}_labels": made[f"y_{of}"].astype(np.uint8)[:, None] for part, of in parts.items()}
        np.savez(tmp_path / "pathmnist.npz", **stored)
        found = load(str(tmp_path / "pathmnist.npz"))
        assert (len(found.train), len(found.test), found.image_shape) == (6, 4, (3, 28, 28))
        unused = "data: not used are val_images and val_labels of pathmnist.npz; to test on them, save them as x_test"
        assert [caution[: len(unused)] for caution in found.cautions] == [unused]
        told = run(
            Protocol(dataset=str(tmp_path / "pathmnist.npz"), candidates=(Candidate((4,)),), epochs=1, stem="none"),
            Execution(device="cpu"),
        )
        assert told.run["warnings"][: len(found.cautions)] == list(found.cautions)

    def test_a_validation_part_alone_is_offered(self, tmp_path):
        made = arrays()
        stored = {"x_train": made["x_train"], "y_train": LABELS, "x_val": made["x_test"], "y_val": LABELS[:4]}
        np.savez(tmp_path / "mine.npz", **stored)
        refused("add x_test, y_test, such as x_val and y_val under these names", name=tmp_path / "mine.npz")

    def test_images_that_are_not_divided_are_named(self, tmp_path):
        np.savez(tmp_path / "mine.npz", X=arrays()["x_train"], y=LABELS)
        refused("got 'X', 'y'", "split X and y into a training and a test part", name=tmp_path / "mine.npz")

    def test_the_plain_name_outranks_others_and_two_others_are_refused(self, tmp_path):
        made = arrays()
        np.savez(tmp_path / "plain.npz", **made, X_train=np.zeros(3))
        assert load(str(tmp_path / "plain.npz")).train.labels.tolist() == LABELS.tolist()
        del made["x_train"]
        np.savez(tmp_path / "two.npz", **made, X_train=np.zeros(3), train_images=np.zeros(3))
        refused("array x_train came twice, as X_train and train_images", name=tmp_path / "two.npz")

    @pytest.mark.parametrize("name", ["train", "x", "x_training_set", "pretrain_x", "notes", "", "x_train_y_train"])
    def test_other_names_stand_for_nothing(self, name):
        assert array_of(name) is None


class TestNamesOfFiles:
    @staticmethod
    def write(folder, names, made=None, suffix=""):
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in zip(made or arrays(), names, strict=True):
            content = idx_bytes((made or arrays())[name])
            (folder / f"{file}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
        return folder

    @staticmethod
    def emnist(kind):
        parts = [("train", "images", 3), ("train", "labels", 1), ("test", "images", 3), ("test", "labels", 1)]
        return [f"emnist-{kind}-{part}-{role}-idx{axes}-ubyte" for part, role, axes in parts]

    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_dots_before_idx_are_read_by_path_and_by_name(self, tmp_path, suffix):
        dotted = [file.replace("-idx", ".idx") for file in IDX_FILES.values()]
        folder = self.write(tmp_path / "mine", dotted, suffix=suffix)
        found = load(str(folder))
        assert (found.name, len(found.train)) == ("mine", 6)
        assert found.sha256 == load(str(write_idx(tmp_path / "plain", arrays()))).sha256
        assert load("mnist", data_dir=folder, download=False).sha256 == found.sha256

    @pytest.mark.parametrize("below", ["", "EMNIST/raw", "gzip"])
    def test_emnist_is_read_and_one_of_several_by_its_prefix(self, tmp_path, below):
        folder = self.write(tmp_path / "data" / below, self.emnist("letters"), suffix=".gz")
        found = load(str(tmp_path / "data"))
        assert (found.name, len(found.train), len(found.test)) == ("emnist-letters", 6, 4)
        assert "rows and columns swapped" in found.cautions[0]
        self.write(folder, self.emnist("digits"), arrays(train=9))
        refused("got several", folder / "emnist-letters", folder / "emnist-digits", name=tmp_path / "data")
        assert len(load(str(folder / "emnist-digits")).train) == 9
        assert len(load(str(tmp_path / "data" / "emnist-letters")).train) == 6

    def test_files_without_a_prefix_outrank_others_beside_them(self, tmp_path):
        folder = self.write(write_idx(tmp_path / "mine", arrays(train=8)), self.emnist("letters"))
        found = load(str(folder))
        assert (found.name, len(found.train), found.cautions) == ("mine", 8, ())

    def test_the_official_uncompressed_name_outranks_other_spellings(self, tmp_path):
        folder = write_idx(tmp_path / "mine", arrays(train=8))
        self.write(folder, [file.replace("-idx", ".idx") for file in IDX_FILES.values()])
        write_idx(folder, arrays(train=7), ".gz")
        assert len(load(str(folder)).train) == 8

    def test_a_folder_that_lacks_files_shows_those_that_are_nearest(self, tmp_path):
        folder = write_idx(tmp_path / "mine", arrays())
        (folder / IDX_FILES["x_train"]).rename(folder / "train-image-idx3-ubyte")
        refused("not all are there (there is train-image-idx3-ubyte)", name=folder)


class TestNearMisses:
    def test_the_nearest_files_of_the_folder_are_named(self, tmp_path, monkeypatch):
        write_npz(tmp_path / "digits-small.npz")
        refused(f"did you mean {tmp_path / 'digits-small.npz'}?", name=tmp_path / "digit-small.npz")
        refused(f"did you mean {tmp_path / 'digits-small.npz'}?", name=tmp_path / "Digits-Small")
        monkeypatch.chdir(tmp_path)
        refused("did you mean digits-small.npz or digits?", name="digits-small")

    def test_the_first_folder_that_is_missing_is_compared(self, tmp_path):
        write_idx(tmp_path / "datasets/mine", arrays())
        refused(f"did you mean {tmp_path / 'datasets'}?", name=tmp_path / "dataset/mine")

    @pytest.mark.parametrize(
        ("name", "near"), [("MNIST", "mnist"), ("fashion_mnist", "fashion-mnist"), ("cifar-10", "cifar10")]
    )
    def test_named_sets_are_known_by_near_names(self, tmp_path, monkeypatch, name, near):
        monkeypatch.chdir(tmp_path)
        refused(f"check the spelling; did you mean {near}", name=name)

    def test_nothing_alike_is_not_made_up(self, tmp_path):
        write_npz(tmp_path / "digits.npz")
        assert "did you mean" not in refused("there is none of that name", name=tmp_path / "qqqq.npz")
