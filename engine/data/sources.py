"""Data sets by name: bundled tables, and images and texts in their original files."""

import gzip
import math
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from engine.data import markov
from engine.data.download import Remote, data_folder, obtain
from engine.data.texts import CONTEXT, read_text, windows
from engine.data.values import Array, RawData, classify, regress, renamed, take
from engine.errors import InvalidData, UnknownName
from engine.registry import extend

TABLES = Path(__file__).with_name("tables")
IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CIFAR_RECORD = 1 + 3 * 32 * 32
SHAKESPEARE = "input.txt"

REMOTES = {
    "mnist": Remote(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        {
            IDX_FILES[0]: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            IDX_FILES[1]: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            IDX_FILES[2]: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            IDX_FILES[3]: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion_mnist": Remote(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        {
            IDX_FILES[0]: "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            IDX_FILES[1]: "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            IDX_FILES[2]: "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            IDX_FILES[3]: "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    "cifar10": Remote(
        "https://www.cs.toronto.edu/~kriz/",
        {CIFAR_ARCHIVE: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    ),
    "tinyshakespeare": Remote(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",
        {SHAKESPEARE: "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"},
    ),
}

Source = Annotated[int, Ge(0)]

PAPER_TRAINING = (
    *(82, 30, 123, 128, 66, 107, 21, 115, 106, 7, 23, 135, 46, 72, 89),
    *(97, 95, 111, 124, 25, 113, 100, 78, 18, 39, 55, 51, 99, 104, 17),
)


def iris(*, split: Literal["random", "paper"] = "random") -> RawData:
    """Iris: 150 flowers, 4 measurements, 3 species (bundled).

    Parameters
    ----------
    split : str
        ``random`` draws the test part; ``paper`` takes the 30 training and 120 test flowers of the continuation paper.

    References
    ----------
    Fisher, "The use of multiple measurements in taxonomic problems", Annals of Eugenics, 1936; the fixed split is
    that of Amakor, Sonntag, Peitz, Machine Learning with Applications 19, 2025 (released code).
    """
    if split not in ("random", "paper"):
        raise UnknownName("split", split, ("random", "paper"))
    flowers = _classes("iris", ("setosa", "versicolor", "virginica"))
    return flowers if split == "random" else _paper_split(flowers)


def digits() -> RawData:
    """Digits: 1,797 handwritten digits of 8 x 8 pixels, 10 classes (bundled)."""
    X, y = _table("digits")
    return classify(X.astype(np.uint8).reshape(-1, 8, 8), y.astype(np.int64))


def wine() -> RawData:
    """Wine: 178 wines, 13 measurements, 3 cultivars (bundled)."""
    return _classes("wine", ("class_0", "class_1", "class_2"))


def breast_cancer() -> RawData:
    """Breast cancer Wisconsin: 569 tumours, 30 measurements, 2 classes (bundled)."""
    return _classes("breast_cancer", ("malignant", "benign"))


def diabetes() -> RawData:
    """Diabetes: 442 patients, 10 measurements, progression after a year (regression; bundled)."""
    return regress(*_table("diabetes"))


def mnist() -> RawData:
    """MNIST: 70,000 handwritten digits of 28 x 28 pixels, 10 classes.

    References
    ----------
    LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE, 1998.
    """
    return _idx_images("mnist")


def fashion_mnist() -> RawData:
    """Fashion-MNIST: 70,000 pieces of clothing of 28 x 28 pixels, 10 classes.

    References
    ----------
    Xiao, Rasul, Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", 2017.
    """
    return renamed(_idx_images("fashion_mnist"), FASHION_CLASSES)


def cifar10() -> RawData:
    """CIFAR-10: 60,000 colour images of 3 x 32 x 32 pixels, 10 classes (the binary version).

    References
    ----------
    Krizhevsky, "Learning multiple layers of features from tiny images", University of Toronto, 2009.
    """
    *train, test = [read_cifar(path, payload) for path, payload in _cifar_files()]
    X, y = (np.concatenate(parts) for parts in zip(*train, strict=True))
    return renamed(classify(X, y, *test), CIFAR_CLASSES)


def markov_text(
    *, context: Annotated[int, Ge(1)] = CONTEXT, length: Annotated[int, Ge(1)] = 50_000, source: Source = 0
) -> RawData:
    """Markov text: drawn from a source of known entropy, where each of 12 letters depends on the two before it.

    Parameters
    ----------
    context : int
        Characters that a sample has.
    length : int
        Characters of the text.
    source : int
        Number of the source; each has chances of its own.

    References
    ----------
    Shannon, "A mathematical theory of communication", Bell System Technical Journal 27, 1948, sections 3 and 7.
    """
    return windows(markov.sample(source, length), context)


def tinyshakespeare(*, context: Annotated[int, Ge(1)] = CONTEXT) -> RawData:
    """Tiny Shakespeare: 1,115,394 characters of plays, 65 of them distinct.

    Parameters
    ----------
    context : int
        Characters that a sample has.

    References
    ----------
    Karpathy, "The unreasonable effectiveness of recurrent neural networks", 2015.
    """
    path = obtain("tinyshakespeare", SHAKESPEARE, REMOTES["tinyshakespeare"])
    return windows(read_text(str(path), _unpacked(path)), context)


DATASETS: dict[str, Callable[..., RawData]] = {
    "iris": iris,
    "digits": digits,
    "wine": wine,
    "breast_cancer": breast_cancer,
    "diabetes": diabetes,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "markov_text": markov_text,
    "tinyshakespeare": tinyshakespeare,
}
extend(DATASETS, "paretopath.datasets")


def read_idx(path: Path) -> Array:
    """The array of an idx file of bytes, plain or ``.gz``.

    Raises
    ------
    InvalidData
        If the file is not idx, or truncated.

    References
    ----------
    The idx file format, LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
    """
    payload = _unpacked(path)
    n_axes = payload[3] if payload[:3] == b"\x00\x00\x08" and len(payload) > 3 else 0
    shape = [int.from_bytes(payload[i : i + 4], "big") for i in range(4, 4 + 4 * n_axes, 4)]
    content = payload[4 + 4 * n_axes :]
    if n_axes == 0 or len(content) != math.prod(shape):
        raise InvalidData(f"{str(path)!r} is truncated or not an idx file of bytes; delete it to fetch it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_cifar(name: str, payload: bytes) -> tuple[Array, Array]:
    """Images, uint8, shape (n, 3, 32, 32), and labels, shape (n,), of a file of the binary version.

    Raises
    ------
    InvalidData
        If the file is truncated or a label is not a class.
    """
    if not payload or len(payload) % CIFAR_RECORD:
        raise InvalidData(f"{name!r} has {len(payload)} bytes, not a multiple of {CIFAR_RECORD}: it is truncated")
    records = np.frombuffer(payload, np.uint8).reshape(-1, CIFAR_RECORD)
    if records[:, 0].max() >= len(CIFAR_CLASSES):
        raise InvalidData(f"{name!r} has the label {records[:, 0].max()}; CIFAR-10 has the labels 0 to 9")
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def _table(name: str) -> tuple[Array, Array]:
    """Features and codes or targets of a table that is bundled: as scikit-learn has it, to the bit."""
    columns = np.loadtxt(TABLES / f"{name}.csv.gz", delimiter=",", skiprows=1)
    return columns[:, :-1], columns[:, -1]


def _classes(name: str, classes: Sequence[str]) -> RawData:
    X, y = _table(name)
    return renamed(classify(X, y.astype(np.int64)), classes)


def _paper_split(flowers: RawData) -> RawData:
    train = np.array(PAPER_TRAINING)
    test = np.setdiff1d(np.arange(len(flowers.X_train)), train)
    return replace(take(flowers, train), X_test=flowers.X_train[test], y_test=flowers.y_train[test])


def _idx_images(name: str) -> RawData:
    X_train, y_train, X_test, y_test = (read_idx(_idx_file(name, file)) for file in IDX_FILES)
    return classify(X_train, y_train, X_test, y_test)


def _idx_file(name: str, file: str) -> Path:
    plain = data_folder() / name / file.removesuffix(".gz")
    return plain if plain.exists() else obtain(name, file, REMOTES[name])


def _unpacked(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidData(f"{str(path)!r} cannot be read ({error}); delete it to fetch it again") from error


def _cifar_files() -> Iterator[tuple[str, bytes]]:
    folder = data_folder() / "cifar10"
    found = next((f for f in (folder, folder / "cifar-10-batches-bin") if (f / CIFAR_FILES[-1]).exists()), None)
    if found is not None:
        return ((str(found / file), _unpacked(found / file)) for file in CIFAR_FILES)
    return _cifar_members(obtain("cifar10", CIFAR_ARCHIVE, REMOTES["cifar10"]))


def _cifar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, "r:gz") as archive:
            members = {Path(member.name).name: member for member in archive if member.isfile()}
            payloads = {file: stream.read() for file in CIFAR_FILES if (stream := archive.extractfile(members[file]))}
    except KeyError as error:
        raise InvalidData(f"{str(path)!r} lacks the file {error}; expected the binary version of CIFAR-10") from error
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InvalidData(f"{str(path)!r} cannot be read ({error}); delete it to fetch it again") from error
    return iter(payloads.items())
