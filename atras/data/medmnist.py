"""MedMNIST's sets by their names, from the files that their package leaves in its cache."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from atras.errors import InputError
from atras.storage import expanded, is_file

from .npz_file import read_npz
from .source_arrays import SourceArrays

_ORGANS = (
    "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left", "lung-right",
    "pancreas", "spleen",
)  # fmt: skip

MEDMNIST: dict[str, tuple[str, ...]] = {
    "pathmnist": (
        "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
        "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
    ),
    "dermamnist": (
        "actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions",
        "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions",
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("grade 0", "grade 1", "grade 2", "grade 3", "grade 4"),
    "breastmnist": ("malignant", "normal, benign"),
    "bloodmnist": (
        "basophil", "eosinophil", "erythroblast", "immature granulocytes", "lymphocyte", "monocyte", "neutrophil",
        "platelet",
    ),
    "tissuemnist": (
        "collecting duct, connecting tubule", "distal convoluted tubule", "glomerular endothelial cells",
        "interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments", "thick ascending limb",
    ),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
}  # fmt: skip
"""Sets of two-dimensional images with one label each, and the names of their classes in the labels' order.

Source: `INFO` of MedMNIST's package (medmnist/info.py).
"""

SIZES = (28, 64, 128, 224)
"""Sides of the images that MedMNIST has files of."""

REFUSED = {"chestmnist": "several labels an image"} | {
    f"{name}mnist3d": "images of three dimensions"
    for name in ("organ", "nodule", "adrenal", "fracture", "vessel", "synapse")
}
"""Further sets, and what no network here can be trained on."""


def read_medmnist(name: str, data_dir: str | Path | None, size: int | None) -> SourceArrays:
    """Read a set of MedMNIST.

    Args:
        name: of `MEDMNIST` or `REFUSED`.
        data_dir: folder to look in before the package's cache, `~/.medmnist`.
        size: side of the images, one of `SIZES`; None for 28.

    Raises:
        InputError: if the file is not there, or the set is of another kind.
    """
    if name in REFUSED:
        raise InputError(
            f"dataset (={name}): expected images [H, W] with one label each, it has {REFUSED[name]}; take one of "
            f"{', '.join(MEDMNIST)}"
        )
    if size not in (None, *SIZES):
        raise InputError(f"image_size (={size}): expected one of {', '.join(map(str, SIZES))}, which {name} has")
    file = f"{name}.npz" if size in (None, SIZES[0]) else f"{name}_{size}.npz"
    folders = [expanded(folder) for folder in (data_dir, "~/.medmnist") if folder is not None]
    path = next((folder / file for folder in folders if is_file(folder / file)), None)
    if path is None:
        raise InputError(
            f"{name}: expected {file} in {' or '.join(map(str, folders))}, it is not there; get it by python -m "
            f"medmnist download, or from https://medmnist.com"
        )
    source = read_npz(path)
    names = MEDMNIST[name]
    return dataclasses.replace(source, name=name, class_names=names, classes=len(names))
