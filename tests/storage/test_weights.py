"""Laws of the codec: decode inverts encode bit for bit, and damage never goes unnoticed."""

import contextlib
import hashlib
import json
import math
import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from storage import Corrupt, InvalidArray, weights

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)
WORDS = {np.float32: np.uint32, np.float64: np.uint64}
FIRST = "28b52ffd202739010050545731120000005b5b22222c20223c6634222c205b355d5d5d580000c03f0000008000002040"


@st.composite
def floats(draw: st.DrawFn) -> NDArray[np.floating]:
    """Arrays of any bit patterns, zeros among them."""
    dtype = draw(st.sampled_from(sorted(WORDS, key=str)))
    words = draw(hnp.arrays(WORDS[dtype], SHAPES, fill=st.just(0)))
    return words.view(dtype)


@st.composite
def spread(draw: st.DrawFn) -> NDArray[np.floating]:
    """Long arrays of which anything from nothing to everything is not zero, in one place or all over."""
    length, share = draw(st.integers(1, 5000)), draw(st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.2, 0.5, 1.0]))
    begin = draw(st.integers(0, length))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    array = random.normal(size=length).astype(draw(st.sampled_from([np.float32, np.float64])))
    array[random.random(length) >= share] = 0
    array[:begin] = 0
    return array


def first_frame(arrays: dict[str, NDArray]) -> bytes:
    """As the first version of the format wrote it: header, then for each array a bitmap and its nonzero words."""
    header = json.dumps([[name, a.dtype.str, a.shape] for name, a in arrays.items()]).encode()
    bodies = []
    for array in arrays.values():
        words = array.reshape(-1).view(f"u{array.dtype.itemsize}")
        bodies += [np.packbits(words != 0).tobytes(), words[words != 0].tobytes()]
    return b"".join([b"PTW1", len(header).to_bytes(4, "little"), header, *bodies])


def plain_dtypes() -> st.SearchStrategy[np.dtype]:
    return st.one_of(hnp.scalar_dtypes(), hnp.unicode_string_dtypes(), hnp.byte_string_dtypes())


def assert_same(found: NDArray, expected: NDArray) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@pytest.mark.slow
@given(floats())
def test_decode_inverts_encode(array: NDArray) -> None:
    assert_same(weights.decode(weights.encode(array)), array)


@given(spread())
def test_places_are_kept_however_many_there_are(array: NDArray) -> None:
    assert_same(weights.decode(weights.encode(array)), array)


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=5), st.one_of(floats(), spread()), max_size=3))
def test_bytes_of_the_first_version_are_read(arrays: dict[str, NDArray]) -> None:
    frame = first_frame(arrays)
    payload, address = zstandard.compress(frame), hashlib.sha256(frame).hexdigest()
    found = weights.decode_arrays(payload, address)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert_same(found[name], array)
    assert weights.digest(payload) == address


def test_bytes_that_the_first_version_wrote_are_read() -> None:
    written = bytes.fromhex(FIRST)
    assert_same(weights.decode(written), np.array([0.0, 1.5, 0.0, -0.0, 2.5], np.float32))


@pytest.mark.parametrize("dtype", WORDS)
@pytest.mark.parametrize(
    "values",
    [[], [0.0], [-0.0], [np.nan], [-np.nan], [np.inf, -np.inf], [5e-324, 1e-45], [0.0, -0.0, 1.0, 0.0], [0.0] * 1000],
)
def test_special_values_keep_their_bits(values: list[float], dtype: type) -> None:
    array = np.array(values, dtype=dtype)
    assert_same(weights.decode(weights.encode(array)), array)


def test_the_payload_of_a_nan_survives() -> None:
    array = np.frombuffer(struct.pack("<2I", 0x7FC01234, 0xFF80FFFF), dtype=np.float32)
    assert_same(weights.decode(weights.encode(array)), array)


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=5), hnp.arrays(plain_dtypes(), SHAPES), max_size=4))
def test_arrays_of_any_plain_type_survive_with_names_and_order(arrays: dict[str, NDArray]) -> None:
    found = weights.decode_arrays(weights.encode_arrays(arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert_same(found[name], array)


def test_strided_arrays_are_read_in_their_own_order() -> None:
    array = np.arange(24.0).reshape(4, 6).T[::2]
    assert_same(weights.decode(weights.encode(array)), np.ascontiguousarray(array))


def test_decoded_arrays_are_the_callers_own() -> None:
    payload = weights.encode(np.arange(3.0))
    weights.decode(payload)[:] = 7.0
    assert_same(weights.decode(payload), np.arange(3.0))


@pytest.mark.slow
@given(floats())
def test_equal_arrays_have_equal_addresses(array: NDArray) -> None:
    assert weights.digest(weights.encode(array)) == weights.digest(weights.encode(array.copy()))


@pytest.mark.parametrize(
    "other",
    [np.zeros(4, np.float32), np.zeros(3, np.float64), np.zeros((3, 1), np.float32), np.full(3, np.float32(-0.0))],
)
def test_different_arrays_have_different_addresses(other: NDArray) -> None:
    array = np.zeros(3, np.float32)
    assert weights.digest(weights.encode(array)) != weights.digest(weights.encode(other))


def test_the_address_is_that_of_the_uncompressed_form() -> None:
    payload = weights.encode(np.arange(100.0))
    assert weights.digest(payload) == hashlib.sha256(zstandard.decompress(payload)).hexdigest()
    assert weights.digest(zstandard.compress(zstandard.decompress(payload), 19)) == weights.digest(payload)


@pytest.mark.parametrize("density", [0.5, 0.1, 0.01])
def test_weights_take_no_more_than_they_and_the_entropy_of_their_places(density: float) -> None:
    random = np.random.default_rng(0)
    theta = random.normal(size=200_000).astype(np.float32)
    theta[random.random(len(theta)) >= density] = 0
    entropy = -(density * math.log2(density) + (1 - density) * math.log2(1 - density))
    assert len(weights.encode(theta)) <= 4 * np.count_nonzero(theta) + len(theta) * entropy / 8


@given(spread(), st.data())
def test_damage_to_a_frame_is_noticed_or_harmless(array: NDArray, data: st.DataObject) -> None:
    """Without an address: whatever the numbers in a frame say, decoding it ends in an array or in `Corrupt`."""
    frame = bytearray(zstandard.decompress(weights.encode(array)))
    frame[data.draw(st.integers(4, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(Corrupt):
        assert isinstance(weights.decode(zstandard.compress(bytes(frame))), np.ndarray)


@pytest.mark.slow
@given(floats(), st.data())
def test_damage_is_noticed(array: NDArray, data: st.DataObject) -> None:
    payload = weights.encode(array)
    address = weights.digest(payload)
    damaged = bytearray(payload)
    damaged[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = weights.decode(bytes(damaged), address)
    except Corrupt:
        return
    assert_same(found, array)


@pytest.mark.slow
@given(floats(), st.data())
def test_a_lost_tail_is_noticed_without_an_address(array: NDArray, data: st.DataObject) -> None:
    frame = zstandard.decompress(weights.encode(array))
    length = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(Corrupt):
        weights.decode(zstandard.compress(frame[:length]))


@pytest.mark.parametrize("payload", [b"", b"garbage", zstandard.compress(b"something else")])
def test_other_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(Corrupt, match="stored bytes"):
        weights.decode(payload)


def test_bytes_with_a_tail_are_refused() -> None:
    frame = zstandard.decompress(weights.encode(np.arange(3.0)))
    with pytest.raises(Corrupt, match="1 bytes too many"):
        weights.decode(zstandard.compress(frame + b"\0"))


def test_another_address_is_refused() -> None:
    with pytest.raises(Corrupt, match="SHA-256"):
        weights.decode(weights.encode(np.arange(3.0)), weights.digest(weights.encode(np.arange(4.0))))


def test_several_arrays_are_not_one() -> None:
    with pytest.raises(Corrupt, match=r"\['a', 'b'\]"):
        weights.decode(weights.encode_arrays({"a": np.zeros(1), "b": np.zeros(1)}))


@pytest.mark.parametrize("array", [np.array([object()]), np.zeros(2, dtype=[("a", "i4"), ("b", "f4")])])
def test_objects_and_records_are_refused(array: NDArray) -> None:
    with pytest.raises(InvalidArray, match="cannot be stored; numbers"):
        weights.encode(array)
