import gzip
import zlib

import numpy as np
import pytest
from tfrecord_files import slow_crc32c, write_records

from jaxcnn.data.sources import tfrecord
from jaxcnn.data.sources.tfrecord import RecordError, crc32c, index_records, read_record


def row(data):
    return np.frombuffer(data, np.uint8)[None]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the next three: RFC 3720, appendix B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_the_checksum_has_the_published_values(data, expected):
    assert crc32c(row(data)).tolist() == [expected]


@pytest.mark.parametrize("length", [1, 3, 4, 5, 100, 4091, 4092, 4093, 4096, 8188, 8189, 12284, 12285])
def test_the_checksum_of_any_length_is_that_of_the_definition(length):
    rows = np.random.default_rng(length).integers(0, 256, (2, length), dtype=np.uint8)
    assert crc32c(rows).tolist() == [slow_crc32c(data.tobytes()) for data in rows]


def test_records_of_a_file_written_by_tensorflow_are_found(tmp_path):
    # tf.io.TFRecordWriter(path).write(b"jax"), .write(b"")
    written = bytes.fromhex(GOLDEN)
    (tmp_path / "file").write_bytes(written)
    offsets = index_records(tmp_path / "file")
    assert offsets.tolist() == [0, 19, 35]
    assert read_record(tmp_path / "file", 0, 19) == b"jax"
    assert read_record(tmp_path / "file", 19, 35) == b""
    write_records(tmp_path / "own", [b"jax", b""])
    assert (tmp_path / "own").read_bytes() == written


GOLDEN = "0300000000000000b099490e6a6178e09c1bae000000000000000029039807d8ea82a2"


@pytest.fixture
def records():
    rng = np.random.default_rng(0)
    return [rng.bytes(int(length)) for length in rng.integers(0, 400, 20)]


@pytest.fixture
def path(tmp_path, records):
    write_records(tmp_path / "some.tfrecord", records)
    return tmp_path / "some.tfrecord"


def test_each_record_is_read_by_its_place(path, records):
    offsets = index_records(path).tolist()
    assert offsets[-1] == path.stat().st_size
    assert [read_record(path, *offsets[i : i + 2]) for i in range(20)] == records


def test_an_empty_file_has_no_records(tmp_path):
    (tmp_path / "empty").touch()
    assert index_records(tmp_path / "empty").tolist() == [0]


def damage(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 64
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, 5, 7, 8, 11])
def test_a_damaged_length_names_file_and_byte(path, place):
    start = int(index_records(path)[6])
    damage(path, start + place)
    with pytest.raises(RecordError, match=rf"some.tfrecord' is damaged at byte {start:,}: the length of a record"):
        index_records(path)


def test_damaged_data_name_file_and_byte(path, records):
    offsets = index_records(path).tolist()
    for place in (12, 12 + len(records[6]) // 2, 12 + len(records[6])):
        damage(path, offsets[6] + place)
        with pytest.raises(RecordError, match=rf"damaged at byte {offsets[6]:,}: the data of the record do not match"):
            read_record(path, offsets[6], offsets[7])
        damage(path, offsets[6] + place)


@pytest.mark.parametrize("left", [1, 11, 12, 15, -1])
def test_a_truncated_file_names_file_and_byte(path, left):
    offsets = index_records(path).tolist()
    content = path.read_bytes()
    path.write_bytes(content[: (offsets[19] if left > 0 else offsets[20]) + left])
    with pytest.raises(RecordError, match=rf"damaged at byte {offsets[19]:,}: the record there ends after the file"):
        index_records(path)
    with pytest.raises(RecordError, match=rf"damaged at byte {offsets[19]:,}: expected a record of .* bytes, got "):
        read_record(path, offsets[19], offsets[20])


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "text").write_bytes(b"this is no file of records, but a text of some length")
    with pytest.raises(RecordError, match="damaged at byte 0: the length of a record does not match"):
        index_records(tmp_path / "text")


@pytest.mark.parametrize("mtime", [0, 1_700_000_000])
def test_a_compressed_file_is_refused(tmp_path, mtime):
    write_records(tmp_path / "plain", [bytes(range(256)) * 4000])
    content = (tmp_path / "plain").read_bytes()
    for level in (0, 9):
        for kind, packed in (
            ("GZIP", gzip.compress(content, level, mtime=mtime)),
            ("ZLIB", zlib.compress(content, level)),
        ):
            (tmp_path / "file").write_bytes(packed)
            with pytest.raises(RecordError, match=f"that is not compressed, got .* with {kind} compression"):
                index_records(tmp_path / "file")


def test_the_advance_of_several_blocks_is_that_of_zeros():
    data = b"jaxcnn"
    for level in range(2):
        zeros = bytes(tfrecord._BLOCK << level)
        assert crc32c(row(data + zeros)).tolist() == [slow_crc32c(data + zeros)]
