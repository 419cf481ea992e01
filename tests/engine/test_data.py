"""Data: original file formats, users' files, splits and scaling, and what is refused."""

import contextlib
import functools
import gzip
import http.server
import io
import pickle
import re
import sys
import tarfile
import threading
import warnings
import zipfile
from hashlib import sha256

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import sklearn.datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import data
from engine.data import markov, sources
from engine.data.download import Remote
from engine.data.prepare import hold_out, prepare
from engine.data.values import RawData
from engine.errors import InvalidData, InvalidSpec, UnknownName
from engine.registry import summary

BUNDLED = {
    "iris": ((4,), 3, 150),
    "digits": ((8, 8), 10, 1797),
    "wine": ((13,), 3, 178),
    "breast_cancer": ((30,), 2, 569),
    "diabetes": ((10,), 1, 442),
}


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def blobs(n=60, n_features=3, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    return rng.normal(size=(n, n_features)) + y[:, None], y


def parts(dataset):
    return [
        (dataset.X_train, dataset.y_train),
        (dataset.X_validation, dataset.y_validation),
        (dataset.X_test, dataset.y_test),
    ]


def same(a, b):
    return (
        a.task == b.task
        and a.classes == b.classes
        and all(
            np.array_equal(getattr(a, key), getattr(b, key)) and getattr(a, key).dtype == getattr(b, key).dtype
            for key in ("X_train", "y_train", "X_test", "y_test")
            if getattr(a, key) is not None
        )
    )


def parquet(**columns):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


WHOLE = {
    "a.npz": npz(X=blobs(12)[0], y=blobs(12)[1]),
    "a.parquet": parquet(a=list(range(30)), y=[0, 1] * 15),
    "a.csv": b"a,b,y\n1,2,3\n4,5,6\n7,8,9\n",
    "a.txt": b"A rose is a rose is a rose. " * 8,
}


class TestBundled:
    @pytest.mark.parametrize("name", BUNDLED)
    def test_loads(self, name):
        shape, n_outputs, n = BUNDLED[name]
        dataset = data.load(name, {}, {})
        assert (dataset.name, dataset.input_shape, dataset.n_outputs) == (name, shape, n_outputs)
        assert sum(len(X) for X, _ in parts(dataset)) == n
        assert len(dataset.X_test) == round(0.2 * n)
        for X, y in parts(dataset):
            assert X.dtype == np.float32
            assert len(X) == len(y) > 0
            assert y.dtype == (np.float32 if name == "diabetes" else np.int64)
            assert y.shape[1:] == ((1,) if name == "diabetes" else ())

    def test_iris_split_of_the_paper(self):
        dataset = data.load("iris", {"split": "paper", "validation": 0}, {})
        assert np.bincount(dataset.y_train).tolist() == [9, 10, 11]
        assert [len(X) for X, _ in parts(dataset)] == [30, 0, 120]
        assert dataset.classes == ("setosa", "versicolor", "virginica")

    @pytest.mark.parametrize("name", ["iris", "digits", "wine", "breast_cancer", "diabetes"])
    def test_bundled_tables_are_scikit_learns(self, name):
        ours = data.DATASETS[name]()
        theirs = getattr(sklearn.datasets, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
        assert np.array_equal(ours.X_train.reshape(len(ours.X_train), -1), theirs.data)
        assert np.array_equal(ours.y_train.ravel(), theirs.target)
        assert ours.classes == tuple(map(str, theirs.get("target_names", ())))

    def test_refuses_unknown_names_and_settings(self):
        with pytest.raises(UnknownName, match=r"unknown data 'irs'; known: .*iris.*mine"):
            data.load("irs", {}, {"mine": b""})
        with pytest.raises(UnknownName, match=r"setting of data 'digits': 'split'; known: limit, .*validation"):
            data.load("digits", {"split": "paper"}, {})
        with pytest.raises(UnknownName, match="unknown split 'odd'; known: paper, random"):
            data.load("iris", {"split": "odd"}, {})

    @pytest.mark.parametrize("name", [*data.DATASETS, "mine"])
    def test_settings_are_described(self, name):
        found = data.settings(name)
        assert {"scale", "validation", "test", "limit", "seed"} <= {p.name for p in found}
        assert all(p.description and not p.required for p in found)
        assert name == "mine" or summary(data.DATASETS[name]).endswith(".")


class TestSplits:
    def test_is_seeded(self):
        first, again, other = (data.load("wine", {"seed": seed}, {}) for seed in (0, 0, 1))
        assert first.digest == again.digest != other.digest
        assert re.fullmatch("[0-9a-f]{64}", first.digest)

    def test_parts_are_disjoint_and_stratified(self):
        X = np.arange(200.0).reshape(100, 2)
        raw = data.parse_upload("a.npz", npz(X=X, y=np.repeat([0, 1], [80, 20])))
        dataset = prepare(raw, scale="none")
        rows = [set(X[:, 0]) for X, _ in parts(dataset)]
        assert sum(map(len, rows)) == len(set.union(*rows)) == 100
        assert [np.bincount(y).tolist() for _, y in parts(dataset)] == [[58, 14], [6, 2], [16, 4]]

    def test_a_sources_own_test_part_is_kept(self):
        X, y = blobs()
        raw = data.parse_upload("a.npz", npz(X_train=X, y_train=y, X_test=X[:7] + 9, y_test=y[:7]))
        assert np.array_equal(prepare(raw, scale="none", test=0.5).X_test, (X[:7] + 9).astype(np.float32))

    def test_limit_comes_before_validation_and_leaves_the_test_part(self):
        whole, limited = (data.load("digits", {"limit": limit}, {}) for limit in (None, 100))
        assert len(limited.X_train) + len(limited.X_validation) == 100
        assert len(limited.X_validation) == 10
        assert len(limited.X_test) == len(whole.X_test)
        assert set(limited.y_train) == set(range(10))

    def test_nothing_held_out_keeps_the_order(self):
        X, y = blobs()
        dataset = prepare(data.parse_upload("a.npz", npz(X=X, y=y)), scale="none", validation=0, test=0)
        assert np.array_equal(dataset.X_train, X.astype(np.float32))
        assert dataset.X_test.shape == dataset.X_validation.shape == (0, 3)
        assert dataset.y_test.shape == (0,)

    @pytest.mark.slow
    @given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.data())
    def test_hold_out_is_fair(self, counts, chooser):
        strata = np.repeat(np.arange(len(counts)), counts)
        n_held = chooser.draw(st.integers(0, len(strata) - len(counts)))
        kept, held = hold_out(strata, n_held, np.random.default_rng(0))
        assert sorted([*kept, *held]) == list(range(len(strata)))
        assert len(held) == n_held
        assert np.bincount(strata[kept], minlength=len(counts)).min() >= 1

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"limit": 2}, "2 of 48 training samples would be left after limit; 3 are needed"),
            ({"test": 0.99}, "1 of 60 training samples would be left after test; 3 are needed"),
            ({"validation": 0.96}, "2 of 48 training samples would be left after validation; 3 are needed"),
        ],
    )
    def test_refuses_too_few_samples(self, params, message):
        X, y = blobs()
        with pytest.raises(InvalidData, match=message):
            data.load("mine", params, {"mine": npz(X=X, y=y)})

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"validation": 1.0}, r"validation 1.0 is outside \[0, 1\)"),
            ({"validation": float("nan")}, "validation nan is outside"),
            ({"test": -0.1}, "test -0.1 is outside"),
            ({"limit": 0}, "limit 0 must be at least 1"),
            ({"seed": -1}, "seed -1 must not be negative"),
            ({"scale": "minmax"}, "unknown scale 'minmax'; known: none, standard, unit"),
        ],
    )
    def test_refuses_settings_out_of_range(self, params, message):
        with pytest.raises(InvalidSpec, match=message):
            data.load("iris", params, {})


class TestScaling:
    def test_standard_uses_training_statistics_only(self):
        dataset = data.load("wine", {}, {})
        assert np.allclose(dataset.X_train.mean(axis=0), 0, atol=1e-5)
        assert np.allclose(dataset.X_train.std(axis=0), 1, atol=1e-5)
        assert np.abs(dataset.X_test.mean(axis=0)).max() > 1e-3

    def test_features_constant_in_training_become_zero_everywhere(self):
        X, y = blobs()
        X[:, 1] = 0.1
        test = X[:6].copy()
        test[:, 1] = 500
        dataset = prepare(data.parse_upload("a.npz", npz(X_train=X, y_train=y, X_test=test, y_test=y[:6])))
        assert not dataset.X_train[:, 1].any()
        assert not dataset.X_test[:, 1].any()

    def test_standard_survives_large_offsets(self):
        X, y = blobs()
        dataset = prepare(data.parse_upload("a.npz", npz(X=X + 1e9, y=y)))
        assert np.allclose(dataset.X_train.std(axis=0), 1, atol=1e-4)

    def test_unit_divides_by_the_largest_training_value(self):
        dataset = data.load("digits", {"scale": "unit"}, {})
        assert dataset.X_train.max() == 1
        assert dataset.X_train.min() == 0

    def test_unit_leaves_zeros_alone(self):
        raw = data.parse_upload("a.npz", npz(X=np.zeros((20, 2)), y=np.arange(20) % 2))
        assert not prepare(raw, scale="unit").X_train.any()

    @pytest.mark.parametrize("scale", ["standard", "unit", "none"])
    def test_refuses_values_beyond_float64(self, scale):
        X, y = blobs()
        raw = data.parse_upload("a.npz", npz(X=np.where(X > 0, 1.7e308, -1.7e308), y=y))
        dataset_or_error = contextlib.nullcontext() if scale == "unit" else pytest.raises(InvalidData, match="scaling")
        with dataset_or_error:
            assert np.abs(prepare(raw, scale=scale).X_train).max() == 1

    def test_tells_how_to_scale_new_samples(self):
        raw = sources.wine()
        dataset = prepare(raw, test=0, validation=0)
        assert np.array_equal(dataset.inputs.apply(raw.X_train), dataset.X_train)

    def test_targets_of_regressions_are_scaled_like_features(self):
        standard = data.load("diabetes", {}, {})
        plain = data.load("diabetes", {"targets": "none"}, {})
        assert abs(float(standard.y_train.std()) - 1) < 1e-5
        assert float(plain.y_train.max()) > 100
        back = standard.y_train / standard.targets.factor + standard.targets.center
        assert np.allclose(back, plain.y_train, rtol=1e-5)

    def test_refuses_values_that_overflow(self):
        X, y = blobs()
        with pytest.raises(InvalidData, match="X_train after scaling has 180 values that are NaN or infinite"):
            prepare(data.parse_upload("a.npz", npz(X=X * 0 + 1e300, y=y)), scale="none", test=0, validation=0, seed=1)


class TestNpz:
    def test_images_become_channels_first(self):
        X = np.random.default_rng(0).integers(0, 255, (20, 8, 6, 3), dtype=np.uint8)
        raw = data.parse_upload("a.npz", npz(X_train=X, y_train=np.arange(20) % 2))
        assert np.array_equal(raw.X_train, X.transpose(0, 3, 1, 2))
        assert same(data.parse_upload("a.npz", data.to_npz(raw)), raw)

    @pytest.mark.parametrize(
        "arrays",
        [
            {"X": blobs()[0], "y": blobs()[1] * 3 + 4},
            {"x_train": blobs()[0].astype(np.float32), "y_train": np.array(["a", "b", "c"])[blobs()[1]][:, None]},
            {"X": blobs()[0] > 0, "y": blobs()[0][:, :2]},
            {"X_train": blobs()[0], "y_train": blobs()[1] > 0, "X_test": blobs()[0][:9], "y_test": blobs()[1][:9] > 0},
            {"X": blobs()[0].astype(np.float16), "y": np.array([b"no", b"yes", b"no"])[blobs()[1]]},
        ],
    )
    def test_normal_form_reads_back_the_same(self, arrays):
        raw = data.parse_upload("a.npz", npz(**arrays))
        stored = data.to_npz(raw)
        assert same(data.parse_upload("b.npz", stored), raw)
        assert stored == data.to_npz(raw)
        assert data.load("mine", {}, {"mine": stored}).digest == prepare(raw).digest

    def test_labels_are_mapped_and_named(self):
        raw = data.parse_upload("a.npz", npz(X=blobs()[0], y=blobs()[1] * 3.0 + 4))
        assert raw.classes == ("4", "7", "10")
        assert np.array_equal(raw.y_train, blobs()[1])

    def test_task_is_guessed_and_can_be_set(self):
        X, y = blobs(300)
        many, few = npz(X=X, y=np.arange(300)), npz(X=X, y=y)
        assert data.load("mine", {}, {"mine": many}).task == "regression"
        assert data.load("mine", {}, {"mine": few}).task == "classification"
        as_numbers = data.load("mine", {"task": "regression", "targets": "none"}, {"mine": few})
        assert set(as_numbers.y_train[:, 0]) == {0, 1, 2}
        as_classes = data.load("mine", {"task": "classification", "test": 0, "validation": 0}, {"mine": many})
        assert as_classes.n_outputs == 300
        with pytest.raises(UnknownName, match="unknown task 'ranking'; known: auto, classification, regression"):
            data.load("mine", {"task": "ranking"}, {"mine": few})

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({}, "lacks 'x_train', 'y_train'; it has nothing"),
            ({"X_train": blobs()[0]}, "lacks 'y_train'; it has 'x_train'"),
            ({"X": blobs()[0], "y": blobs()[1][:-1]}, "y_train has 59 values for 60 samples"),
            (
                {"X": blobs()[0] * np.nan, "y": blobs()[1]},
                "X_train has 180 values that are NaN or infinite, the first, nan, in row 0 ",
            ),
            ({"X": blobs()[0], "y": blobs()[0][:, 0] * np.inf}, "y_train has 60 values that are NaN or infinite"),
            ({"X": np.zeros((0, 3)), "y": np.zeros(0)}, r"X_train has the shape \(0, 3\)"),
            ({"X": np.zeros(5), "y": np.arange(5)}, r"X_train has the shape \(5,\)"),
            ({"X": blobs()[0].astype(complex), "y": blobs()[1]}, "X_train has the type complex128"),
            ({"X": blobs()[0].astype(str), "y": blobs()[1]}, "X_train has the type <U"),
            ({"X": blobs()[0], "y": np.ones(60)}, "only the class '1'; classification needs at least 2"),
            ({"X": blobs()[0], "y": np.full(60, 0.5)}, "the target is 0.5 for all 60 training samples"),
            ({"X": blobs()[0], "y": blobs()[1].astype("datetime64[s]")}, "type datetime64"),
            ({"X": blobs()[0], "y": np.array(3)}, r"y_train has the shape \(\)"),
            ({"X_train": blobs()[0], "y_train": blobs()[1], "X_test": blobs()[0]}, "y_test is missing"),
            (
                {"X_train": blobs()[0], "y_train": blobs()[1], "X_test": blobs()[0], "y_test": blobs()[1] + 1},
                "y_test has the class '3', which y_train lacks; known: 0, 1, 2",
            ),
            (
                {"X_train": blobs()[0], "y_train": blobs()[1], "X_test": blobs()[0][:, :2], "y_test": blobs()[1]},
                r"X_test have the shape \(2,\) and those of X_train \(3,\)",
            ),
            (
                {"X_train": blobs()[0], "y_train": blobs()[1], "X_test": blobs()[0], "y_test": blobs()[1].astype(str)},
                "y_test has the class '0', which y_train lacks",
            ),
        ],
    )
    def test_refuses_data_that_cannot_be_trained_on(self, arrays, message):
        with pytest.raises(InvalidData, match=message):
            data.parse_upload("a.npz", npz(**arrays))

    def test_never_loads_a_pickle(self):
        class Bomb:
            def __reduce__(self):
                return (pytest.fail, ("the pickle was loaded",))

        objects = np.empty(3, object)
        objects[:] = Bomb()
        with pytest.raises(InvalidData, match=r"'X.npy' of 'a.npz' holds a pickle"):
            data.parse_upload("a.npz", npz(X=objects, y=np.arange(3)))
        with pytest.raises(InvalidData, match=r"not an \.npz file"):
            data.parse_upload("a.npz", pickle.dumps(Bomb()))

    def test_refuses_what_is_not_a_whole_npz(self):
        payload = npz(X=blobs()[0], y=blobs()[1])
        for broken, message in [
            (b"", "'a.npz' is empty"),
            (b"X,y\n1,2\n", "not an .npz file"),
            (payload[:-30], "truncated or not an .npz"),
            (payload[:100], "truncated or not an .npz"),
        ]:
            with pytest.raises(InvalidData, match=message):
                data.parse_upload("a.npz", broken)

    def test_refuses_archives_that_unpack_to_too_much(self):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("X.npy", b"0" * 10)
        bomb = bytearray(buffer.getvalue())
        at = bomb.index(b"PK\x01\x02") + 24
        bomb[at : at + 4] = (2**32 - 2).to_bytes(4, "little")
        with pytest.raises(InvalidData, match="unpacks to 4,294,967,294 bytes"):
            data.parse_upload("a.npz", bytes(bomb))

    @pytest.mark.slow
    @settings(max_examples=200, deadline=None)
    @given(
        st.sampled_from(list(WHOLE)),
        st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    )
    def test_damaged_files_are_read_or_refused(self, name, changes):
        payload = bytearray(WHOLE[name])
        for place, value in changes:
            payload[place % len(payload)] = value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(InvalidData):
                assert isinstance(data.parse_upload(name, bytes(payload)), RawData)

    def test_from_a_path(self, tmp_path):
        path = tmp_path / "mine.npz"
        path.write_bytes(npz(X=blobs()[0], y=blobs()[1]))
        assert data.load(str(path), {"validation": 0.25}, {}).name == str(path)
        for missing in (tmp_path / "other.npz", tmp_path / "folder.csv"):
            (tmp_path / "folder.csv").mkdir(exist_ok=True)
            with pytest.raises(InvalidData, match="cannot read"):
                data.load(str(missing), {}, {})
        assert data.is_path("a/b.CSV")
        assert not data.is_path("iris")

    def test_an_upload_comes_before_a_path(self):
        assert data.load("a.npz", {}, {"a.npz": npz(X=blobs()[0], y=blobs()[1])}).n_outputs == 3

    def test_refuses_other_suffixes(self):
        with pytest.raises(
            InvalidData, match=r"cannot read 'a\.pkl'; known: files that end in \.npz, \.csv, \.parquet"
        ):
            data.parse_upload("a.pkl", b"x")


class TestTables:
    def test_csv_with_text_labels(self):
        raw = data.parse_upload("a.csv", b"\xef\xbb\xbfsize,weight,kind\r\n1,2,cat\r\n3,4e1,dog\r\n\r\n5,-6, cat\r\n")
        assert raw.X_train.tolist() == [[1, 2], [3, 40], [5, -6]]
        assert raw.y_train.tolist() == [0, 1, 0]
        assert raw.classes == ("cat", "dog")

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_csv_target_column_by_name(self, delimiter):
        raw = data.parse_upload("a.csv", b"a,Label,b\n1,0,3\n4,1,6\n".replace(b",", delimiter.encode()))
        assert raw.X_train.tolist() == [[1, 3], [4, 6]]
        assert raw.task == "classification"

    def test_csv_with_real_targets(self):
        raw = data.parse_upload("a.csv", b"a,y\n1,0.5\n2,1.5\n")
        assert (raw.task, raw.y_train.tolist()) == ("regression", [[0.5], [1.5]])

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"a,y\n", "'a.csv' has 1 lines; expected a header and at least one sample"),
            (b"y\n1\n2\n", "the one column 'y'"),
            (b"1,2\n3,4\n", "its first line must name the columns"),
            (b"a,y\n1,2\n3\n", "line 3 of 'a.csv' has 1 cells; the header has 2"),
            (b"a,y\n1,0\nred,1\n", "column 'a' of 'a.csv' has 'red' in row 1"),
            (b"a,y\n1,0\n,1\n", "column 'a' of 'a.csv' has '' in row 1"),
            (b"a,y\n1,x\n2,\n", "the target 'y' of 'a.csv' is missing in row 1"),
            (b"a,y\n1,0\nnan,1\n", "1 values that are NaN or infinite, the first, nan, in row 1"),
            (b"a,y\n1,0\ninf,1\n", "the first, inf, in row 1"),
            (b"a,y\n1,nan\n2,1\n", "y_train has 1 values that are NaN"),
            (b"a,y\n1,0\n2,0\n", "only the class '0'"),
            (b"\xff\xfe\x00", "is not a text table"),
        ],
    )
    def test_csv_refuses(self, text, message):
        with pytest.raises(InvalidData, match=message):
            data.parse_upload("a.csv", text)

    def test_text_labels_are_no_targets(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text("a,y\n1,x\n2,z\n")
        with pytest.raises(InvalidData, match="the target 'x' is not a number"):
            data.load(str(path), {"task": "regression"}, {})

    def test_parquet(self):
        raw = data.parse_upload("a.parquet", parquet(a=[1, 2, 3], target=["u", "v", "u"], b=[0.5, 1.5, 2.5]))
        assert raw.X_train.tolist() == [[1, 0.5], [2, 1.5], [3, 2.5]]
        assert raw.classes == ("u", "v")
        assert data.parse_upload("a.parquet", parquet(a=[1, 2, 3], y=[0.5, 1, 2])).task == "regression"

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"a": ["x", "y"], "y": [0, 1]}, "column 'a' of 'a.parquet' has the type"),
            ({"a": [1, None], "y": [0, 1]}, "the first, nan, in row 1"),
            ({"a": [1, 2], "y": ["u", None]}, "the target 'y' of 'a.parquet' is missing in row 1"),
            ({"y": [0, 1]}, "expected at least one feature"),
            ({"a": [[1], [2]], "y": [0, 1]}, "column 'a' of 'a.parquet' has the type object"),
        ],
    )
    def test_parquet_refuses(self, columns, message):
        with pytest.raises(InvalidData, match=message):
            data.parse_upload("a.parquet", parquet(**columns))

    def test_parquet_truncated(self):
        with pytest.raises(InvalidData, match="truncated or not a Parquet file"):
            data.parse_upload("a.parquet", parquet(a=[1, 2], y=[0, 1])[:-20])

    def test_parquet_without_pyarrow_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(InvalidData, match=r"needs pyarrow: pip install 'paretopath\[parquet\]'"):
            data.parse_upload("a.parquet", b"PAR1")


def spoken(dataset, X, y):
    """The text of each window."""
    return ["".join(dataset.classes[code] for code in (*row, after[-1])) for row, after in zip(X, y, strict=True)]


class TestTexts:
    TEXT = "".join(chr(97 + i * i % 26) for i in range(1000)) + "äß€"

    def test_windows_are_the_text_in_order_and_share_no_character(self, tmp_path):
        (tmp_path / "a.txt").write_text(self.TEXT, encoding="utf-8-sig")
        dataset = data.load(str(tmp_path / "a.txt"), {"context": 16}, {})
        found = [window for X, y in parts(dataset) for window in spoken(dataset, X, y)]
        assert "".join(found) == self.TEXT[: len(found) * 17]
        assert [len(X) for X, _ in parts(dataset)] == [41, 5, 11]
        for X, y in parts(dataset):
            assert (X.dtype, y.dtype) == (np.int64, np.int64)
            assert np.array_equal(X[:, 1:], y[:, :-1])

    def test_the_limit_takes_the_first_windows_and_leaves_the_test_part(self):
        whole, limited = (data.load("markov_text", {"limit": limit}, {}) for limit in (None, 100))
        assert np.array_equal(limited.X_train, whole.X_train[:90])
        assert np.array_equal(limited.X_validation, whole.X_train[90:100])
        assert np.array_equal(limited.X_test, whole.X_test)

    def test_survives_the_normal_form_and_is_cut_anew(self):
        raw = data.parse_upload("a.txt", self.TEXT.encode())
        assert same(raw, data.parse_upload("a.npz", data.to_npz(raw)))
        dataset = data.load("mine", {"context": 4, "scale": "standard"}, {"mine": data.to_npz(raw)})
        assert dataset.input_shape == (4,)
        assert dataset.output_shape == (4, dataset.n_outputs)
        assert spoken(dataset, dataset.X_train[:1], dataset.y_train[:1]) == [self.TEXT[:5]]

    @pytest.mark.parametrize(
        ("payload", "message"),
        [
            (b"\xff\xfe\x00", "'a.txt' is not a text in UTF-8"),
            (b"word" * 30 + b"\0" + b"word" * 30, "the character NUL at place 120"),
            (b"too short", "the text has 9 characters; 130 are needed for a context of 64"),
            (b"a" * 500, "no character but 'a'"),
        ],
    )
    def test_refuses_what_is_no_text(self, payload, message):
        with pytest.raises(InvalidData, match=message):
            data.parse_upload("a.txt", payload)

    def test_refuses_other_tasks_and_contexts(self):
        stored = {"mine": data.to_npz(data.parse_upload("a.txt", self.TEXT.encode()))}
        with pytest.raises(InvalidData, match="cannot be read as regression"):
            data.load("mine", {"task": "regression"}, stored)
        with pytest.raises(InvalidData, match="1950 are needed"):
            data.load("mine", {"context": 974}, stored)
        with pytest.raises(InvalidSpec, match="context 0 must be at least 1"):
            data.load("mine", {"context": 0}, stored)

    def test_tinyshakespeare_is_fetched_once(self, folder, server, monkeypatch):
        offer(server, monkeypatch, "tinyshakespeare", {sources.SHAKESPEARE: self.TEXT.encode()})
        assert data.load("tinyshakespeare", {"context": 9}, {}).input_shape == (9,)
        assert (folder / "tinyshakespeare" / sources.SHAKESPEARE).read_text() == self.TEXT

    def test_nobody_predicts_the_markov_source_better_than_its_entropy(self):
        chances = markov.transitions(0)
        pairs = np.zeros((12, 12, 12, 12))
        for first, second in np.ndindex(12, 12):
            pairs[first, second, second] = chances[first, second]
        often = np.linalg.matrix_power(pairs.reshape(144, 144), 10_000)[0].reshape(12, 12)
        entropy = -(often[..., None] * chances * np.log(chances)).sum()
        codes = np.array([markov.LETTERS.index(letter) for letter in markov.sample(0, 50_000)])
        scored = -np.log(chances[codes[:-2], codes[1:-1], codes[2:]]).mean()
        assert scored == pytest.approx(entropy, rel=0.02)
        assert 0.5 < entropy < 1.5


def idx(array):
    header = b"\x00\x00\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def mnist_files():
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (30, 5, 4)), np.arange(30) % 10
    arrays = (X[:20], y[:20], X[20:], y[20:])
    return X, {name: gzip.compress(idx(a), mtime=0) for name, a in zip(sources.IDX_FILES, arrays, strict=True)}


def cifar_archive(n=10):
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file in sources.CIFAR_FILES:
            records = rng.integers(0, 256, (n, sources.CIFAR_RECORD), dtype=np.uint8)
            records[:, 0] = np.arange(n) % 10
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            member.size = records.nbytes
            archive.addfile(member, io.BytesIO(records.tobytes()))
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETOPATH_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder that is served over http, and its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    served = tmp_path / "served"
    served.mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served)) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served, f"http://127.0.0.1:{listening.server_port}/"
        listening.shutdown()
        thread.join()


def offer(server, monkeypatch, name, files, sums=None):
    served, address = server
    for file, payload in files.items():
        (served / file).write_bytes(payload)
    sums = sums or {file: sha256(payload).hexdigest() for file, payload in files.items()}
    monkeypatch.setitem(sources.REMOTES, name, Remote(address, sums))
    return served


class TestOriginalFormats:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_idx_from_the_folder(self, folder, zipped):
        X, files = mnist_files()
        (folder / "mnist").mkdir(parents=True)
        for name, payload in files.items():
            place = folder / "mnist" / (name if zipped else name.removesuffix(".gz"))
            place.write_bytes(payload if zipped else gzip.decompress(payload))
        dataset = data.load("mnist", {"scale": "none", "validation": 0}, {})
        assert np.array_equal(dataset.X_train, X[:20])
        assert np.array_equal(dataset.X_test, X[20:])
        assert dataset.y_test.tolist() == list(range(10))

    @pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
    def test_missing_files_are_fetched_once(self, folder, server, monkeypatch, name):
        served = offer(server, monkeypatch, name, mnist_files()[1])
        first = data.load(name, {}, {})
        for file in served.iterdir():
            file.unlink()
        assert data.load(name, {}, {}).digest == first.digest
        assert sorted(p.name for p in (folder / name).iterdir()) == sorted(sources.IDX_FILES)
        assert first.classes[9] == ("9" if name == "mnist" else "Ankle boot")

    def test_cifar_from_the_archive_and_from_files(self, folder, server, monkeypatch):
        offer(server, monkeypatch, "cifar10", {sources.CIFAR_ARCHIVE: cifar_archive()})
        dataset = data.load("cifar10", {"scale": "none"}, {})
        assert dataset.input_shape == (3, 32, 32)
        assert [len(X) for X, _ in parts(dataset)] == [45, 5, 10]
        assert dataset.classes[:2] == ("airplane", "automobile")
        with tarfile.open(folder / "cifar10" / sources.CIFAR_ARCHIVE) as archive:
            archive.extractall(folder / "cifar10", filter="data")
        (folder / "cifar10" / sources.CIFAR_ARCHIVE).unlink()
        assert data.load("cifar10", {"scale": "none"}, {}).digest == dataset.digest

    def test_cifar_planes_are_red_green_blue(self):
        record = bytes([7]) + bytes([1]) * 1024 + bytes([2]) * 1024 + bytes([3]) * 1024
        X, y = sources.read_cifar("test", record)
        assert X[0].mean(axis=(1, 2)).tolist() == [1, 2, 3]
        assert y.tolist() == [7]

    def test_failed_download_says_what_to_put_where(self, folder, server, monkeypatch):
        offer(server, monkeypatch, "mnist", {}, {sources.IDX_FILES[0]: "0" * 64})
        with pytest.raises(InvalidData) as caught:
            data.load("mnist", {}, {})
        place = folder / "mnist" / sources.IDX_FILES[0]
        assert str(place) in str(caught.value)
        assert "404" in str(caught.value)
        assert f"{server[1]}{sources.IDX_FILES[0]}" in str(caught.value)
        assert list((folder / "mnist").iterdir()) == []

    def test_altered_downloads_are_not_kept(self, folder, server, monkeypatch):
        offer(server, monkeypatch, "mnist", mnist_files()[1], dict.fromkeys(sources.IDX_FILES, "0" * 64))
        with pytest.raises(InvalidData, match="its SHA-256 is"):
            data.load("mnist", {}, {})
        assert list((folder / "mnist").iterdir()) == []

    @pytest.mark.parametrize("remote", sources.REMOTES.values())
    def test_addresses_are_encrypted_and_sums_whole(self, remote):
        assert remote.url.startswith("https://")
        assert remote.url.endswith("/")
        assert all(re.fullmatch("[0-9a-f]{64}", found) for found in remote.files.values())

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            idx(np.ones((3, 2)))[:-1],
            idx(np.ones((3, 2))) + b"0",
            b"\x00\x00\x0d\x01\x00\x00\x00\x00",
            b"\x00\x00\x08",
        ],
    )
    def test_refuses_damaged_idx(self, tmp_path, payload):
        path = tmp_path / "images"
        path.write_bytes(payload)
        with pytest.raises(InvalidData, match="truncated or not an idx file"):
            sources.read_idx(path)

    def test_refuses_damaged_gz(self, tmp_path):
        path = tmp_path / "images.gz"
        for payload in (b"not zipped", gzip.compress(idx(np.ones((30, 20))))[:-9]):
            path.write_bytes(payload)
            with pytest.raises(InvalidData, match="cannot be read"):
                sources.read_idx(path)

    def test_refuses_damaged_cifar(self, folder):
        (folder / "cifar10").mkdir(parents=True)
        place = folder / "cifar10" / sources.CIFAR_ARCHIVE
        empty = io.BytesIO()
        tarfile.open(fileobj=empty, mode="w:gz").close()
        for payload, message in [
            (cifar_archive()[:5000], "cannot be read"),
            (b"not a tar", "cannot be read"),
            (empty.getvalue(), "lacks the file 'data_batch_1.bin'"),
        ]:
            place.write_bytes(payload)
            with pytest.raises(InvalidData, match=message):
                data.load("cifar10", {}, {})
        with pytest.raises(InvalidData, match="not a multiple of 3073"):
            sources.read_cifar("batch", bytes(3072))
        with pytest.raises(InvalidData, match="the label 10"):
            sources.read_cifar("batch", bytes([10]) + bytes(3072))
