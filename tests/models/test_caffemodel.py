"""The reader of Caffe's files, against its own writer and the official protobuf library."""

import tracemalloc

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deconvnet.models.caffemodel import read_caffemodel
from deconvnet.support.errors import UserError
from tests.caffemodel_writer import Layer, blob, caffemodel, layer, message, number, text, varint
from tests.caffemodel_writer import write_caffemodel as write
from tests.models.test_caffe import FLOATS, small_net


@pytest.mark.parametrize("data", ["packed", "unpacked", "split", "double"])
@pytest.mark.parametrize("older", [True, False])
def test_reader_returns_what_the_writer_wrote(tmp_path, older, data):
    drawn = np.random.default_rng(0).normal(size=(4, 3, 5, 2)).astype(np.float32)
    layers = [Layer("conv-1", [drawn, np.arange(4, dtype=np.float32)]), Layer("bn", [drawn[0]], tops=3, inference=True)]
    found = read_caffemodel(write(tmp_path / "net.caffemodel", layers, older, data))
    assert list(found) == ["conv-1", "bn"]  # the ReLU layers have no blobs
    np.testing.assert_array_equal(found["conv-1"].blobs[0], drawn)
    np.testing.assert_array_equal(found["conv-1"].blobs[1].reshape(-1), np.arange(4))
    assert found["conv-1"].blobs[1].shape == ((1, 1, 1, 4) if older else (4,))
    assert (found["conv-1"].top_count, found["bn"].top_count) == (1, 3)
    assert found["bn"].bn_inference == older and not found["conv-1"].bn_inference
    assert found["conv-1"].blobs[0].dtype == np.float32


@pytest.mark.parametrize("count", [1, 2, 65535, 65536, 65537, 65538, 131074])
def test_long_runs_of_unpacked_numbers(tmp_path, count):
    values = np.random.default_rng(0).normal(size=count).astype(np.float32)
    path = write(tmp_path / "net.caffemodel", [Layer("a", [values, values[:1]])], older=False, data="unpacked")
    found = read_caffemodel(path)["a"].blobs
    np.testing.assert_array_equal(found[0], values)
    np.testing.assert_array_equal(found[1], values[:1])


def caffe_messages(packed: bool) -> type:
    """NetParameter by the official library: the fields of caffe.proto that matter, declared here."""
    file = descriptor_pb2.FileDescriptorProto(name=f"caffe_{packed}.proto", package=f"caffe_{packed}", syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto

    def declare(name: str, *fields: tuple) -> None:
        declared = file.message_type.add(name=name)
        for field_name, field_number, kind, label in fields:
            item = declared.field.add(name=field_name, number=field_number, label=label)
            if isinstance(kind, str):
                item.type, item.type_name = kinds.TYPE_MESSAGE, f".{file.package}.{kind}"
            else:
                item.type = kind
            if kind in (kinds.TYPE_FLOAT, kinds.TYPE_DOUBLE, kinds.TYPE_INT64):
                item.options.packed = packed

    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    declare("BlobShape", ("dim", 1, kinds.TYPE_INT64, many))
    legacy = [(name, i, kinds.TYPE_INT32, one) for i, name in enumerate(("num", "channels", "height", "width"), 1)]
    declare("BlobProto", *legacy, ("data", 5, kinds.TYPE_FLOAT, many), ("diff", 6, kinds.TYPE_FLOAT, many),
            ("shape", 7, "BlobShape", one), ("double_data", 8, kinds.TYPE_DOUBLE, many))
    declare("BNParameter", ("bn_mode", 3, kinds.TYPE_INT32, one))
    declare("Older", ("top", 3, kinds.TYPE_STRING, many), ("name", 4, kinds.TYPE_STRING, one),
            ("type", 5, kinds.TYPE_INT32, one), ("blobs", 6, "BlobProto", many), ("bn_param", 45, "BNParameter", one))
    declare("Newer", ("name", 1, kinds.TYPE_STRING, one), ("type", 2, kinds.TYPE_STRING, one),
            ("top", 4, kinds.TYPE_STRING, many), ("blobs", 7, "BlobProto", many))
    declare("NetParameter", ("name", 1, kinds.TYPE_STRING, one), ("layers", 2, "Older", many),
            ("layer", 100, "Newer", many))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.NetParameter"))


@pytest.mark.parametrize("packed", [True, False])
def test_reader_agrees_with_the_protobuf_library(tmp_path, packed):
    values = np.random.default_rng(2).normal(size=24).astype(np.float32)
    net = caffe_messages(packed)(name="both layouts")
    older = net.layers.add(name="fc6-deconv", type=39, top=["x"])
    older.blobs.add(num=2, channels=3, height=4, width=1, data=values, diff=values)
    bn = net.layers.add(name="bn1_1", type=43, top=["x", "mean", "var"])
    bn.bn_param.bn_mode = 1
    bn.blobs.add(num=1, channels=2, height=1, width=1, data=[1, 2])
    newer = net.layer.add(name="upscore8", type="Deconvolution", top=["y"])
    newer.blobs.add(data=values).shape.dim.extend([4, 3, 2])
    newer.blobs.add(double_data=values.astype(float)).shape.dim.extend([24])
    path = tmp_path / "net.caffemodel"
    path.write_bytes(net.SerializeToString())
    found = read_caffemodel(path)
    assert list(found) == ["fc6-deconv", "bn1_1", "upscore8"]
    np.testing.assert_array_equal(found["fc6-deconv"].blobs[0], values.reshape(2, 3, 4, 1))
    assert found["bn1_1"].bn_inference and found["bn1_1"].top_count == 3
    np.testing.assert_array_equal(found["upscore8"].blobs[0], values.reshape(4, 3, 2))
    np.testing.assert_array_equal(found["upscore8"].blobs[1], values)


def test_protobuf_library_reads_what_the_writer_wrote():
    """So the writer, which the other tests lean on, is right too."""
    drawn = np.random.default_rng(0).normal(size=(2, 3, 1, 2)).astype(np.float32)
    for data in ("packed", "split", "double", "unpacked"):
        for older in (True, False):
            net = caffe_messages(True).FromString(b"".join(caffemodel([Layer("a", [drawn], tops=2)], older, data)))
            first = (net.layers if older else net.layer)[0]
            assert (first.name, len(first.top)) == ("a", 2)
            found = first.blobs[0].double_data if data == "double" else first.blobs[0].data
            np.testing.assert_array_equal(np.array(found, np.float32), drawn.ravel())
            shape = first.blobs[0].shape.dim if not older else [first.blobs[0].num, first.blobs[0].channels,
                                                                first.blobs[0].height, first.blobs[0].width]
            assert list(shape) == [2, 3, 1, 2]


HOSTILE = {
    "empty": (b"", "no layer with weights"),
    "text": (b"<html><body>404 Not Found</body></html>", "not a readable Caffe model"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
    "no weights": (b"".join(layer(Layer("relu", []))), "no layer with weights"),
    "huge length": (varint(18) + varint(1 << 62), "cut short"),
    "endless number": (b"\xff" * 40, "longer than 64 bits"),
    "field 0": (b"\x00\x00", "no field tag"),
    "group": (b"\x13\x14", "wire type"),
    "version 0": (b"".join(message(2, message(1, text(1, "conv1")))), "upgrade_net_proto_binary"),
    "negative size": (b"".join(message(2, [*text(4, "a"), *message(6, [*number(1, -1), *number(2, 6)])])), "'a'"),
    "sizes too large": (
        b"".join(message(2, [*text(4, "a"), *message(6, [part for i in range(1, 5) for part in number(i, 1 << 31)])])),
        "'a'",
    ),
    "sizes that overflow to 0": (
        b"".join(message(100, [*text(1, "a"), *message(7, message(7, message(1, [varint(1 << 32)] * 2)))])), "'a'"
    ),
    "dimensions": (b"".join(message(100, message(7, message(7, message(1, [b"\1" * 4000]))))), "32 dimensions"),
    "half a number": (b"".join(message(2, message(6, message(5, [b"\0" * 7])))), "inside a number"),
    "pieces": (b"".join(message(2, message(6, message(5, []) * 1001))), "1000 pieces"),
    "too many numbers": (b"".join(message(2, message(6, blob(FLOATS) + message(5, [bytes(4)])))), "holds 7"),
    "long name": (b"".join(message(2, [*text(4, "a" * 300), *message(6, blob(FLOATS))])), "name"),
    "name not UTF-8": (b"".join(message(2, message(4, [b"\xff\xfe"]))), "UTF-8"),
    "same name twice": (b"".join(layer(Layer("a", [FLOATS])) * 2), "'a'"),
    "layer is a number": (b"".join(number(2, 5)), "not a message"),
    "many fields": (b"\x28\x00" * 1_000_001, "fields"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_are_one_line_errors(tmp_path, what):
    content, expected = HOSTILE[what]
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    with pytest.raises(UserError, match=expected) as caught:
        read_caffemodel(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_caffemodel(tmp_path / "none.caffemodel")


@pytest.mark.parametrize("older", [True, False])
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_crash_the_reader(tmp_path, older, data):
    content = bytearray(small_net(older))
    for _ in range(data.draw(st.integers(0, 3), "changed bytes")):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)), "length")]
    content += data.draw(st.binary(max_size=20), "appended")
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        found = read_caffemodel(path)
        for item in found.values():
            assert all(array.dtype == np.float32 and array.nbytes <= len(content) for array in item.blobs)
    except UserError as error:
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1_000_000
