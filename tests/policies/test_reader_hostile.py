"""policies/reference/reader.py: nothing that a hostile or damaged file holds is ever executed."""

from __future__ import annotations

import builtins
import contextlib
import copyreg
import functools
import importlib
import operator
import os
import pickle
import struct
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from policies.reference.reader import CheckpointError, describe_trusted
from tests.helpers.reader_files import (
    LIFT,
    NO_CFG,
    Gadget,
    outcome,
    pack,
    pickled,
    read,
    refusal,
    save,
)

MARK = "touched"
GADGETS: dict[str, tuple[str, Callable[[], object]]] = {
    "system": ("posix.system", lambda: Gadget(os.system, f"touch {MARK}")),
    "eval": ("builtins.eval", lambda: Gadget(eval, f"open({MARK!r}, 'w')")),
    "exec": ("builtins.exec", lambda: Gadget(exec, f"open({MARK!r}, 'w')")),
    "open": ("io.open", lambda: Gadget(open, MARK, "w")),
    "popen": ("subprocess.Popen", lambda: Gadget(subprocess.Popen, ["touch", MARK])),
    "getattr": ("builtins.getattr", lambda: Gadget(getattr, dict, "keys")),
    "import": ("builtins.__import__", lambda: Gadget(builtins.__import__, "os")),
    "import_module": ("importlib.import_module", lambda: Gadget(importlib.import_module, "os")),
    "attrgetter": ("operator.attrgetter", lambda: Gadget(operator.attrgetter, "system")),
    "partial": ("functools.partial", lambda: functools.partial(os.system, f"touch {MARK}")),
    "load": ("torch.serialization.load", lambda: Gadget(torch.load, "x")),
    "storage": (
        "torch.storage._load_from_bytes",
        lambda: Gadget(torch.storage._load_from_bytes, b"x"),
    ),
    "reconstructor": (
        "copyreg._reconstructor",
        lambda: Gadget(vars(copyreg)["_reconstructor"], dict, object, None),
    ),
}


@pytest.fixture
def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / MARK


def test_the_gadget_works_when_a_file_is_unpickled(marked: Path) -> None:
    pickle.loads(pickle.dumps(Gadget(os.system, f"touch {MARK}")))
    assert marked.exists()


@pytest.mark.parametrize("where", ["payload", "cfg", "node", "optimizer", "pickles", "key"])
@pytest.mark.parametrize("gadget", GADGETS)
def test_a_gadget_is_refused_by_name(marked: Path, gadget: str, where: str) -> None:
    name, make = GADGETS[gadget]
    evil = make()
    node = OmegaConf.create({"a": {"b": [1]}}, flags={"allow_objects": True})
    node.a.b.append(evil)
    payload = {
        "payload": {**NO_CFG, "x": evil},
        "cfg": {**NO_CFG, "cfg": evil},
        "node": {**NO_CFG, "cfg": node},
        "optimizer": {**NO_CFG, "state_dicts": {"optimizer": {"state": [evil]}}},
        "pickles": {**NO_CFG, "pickles": {"global_step": pickle.dumps(evil, protocol=4)}},
        "key": {**NO_CFG, "cfg": {(1, evil): 2}},
    }[where]
    for protocol in (2, 4):
        path = pack(Path("evil.ckpt").absolute(), pickle.dumps(payload, protocol))
        message = refusal(path)
        assert f"asks for {name}," in message
        assert name in describe_trusted(path)
    assert not marked.exists()


def test_functions_that_dill_takes_along_are_refused(marked: Path) -> None:
    evil = eval(f"lambda: open({MARK!r}, 'w')")
    path = save(Path("evil.ckpt").absolute(), {**NO_CFG, "x": evil})
    assert "dill._dill._create_function" in refusal(path)
    names = describe_trusted(path)
    assert {"dill._dill._create_function", "dill._dill._create_code"} <= set(names)


@pytest.mark.parametrize("kind", ["CodeType", "FunctionType", "ModuleType", "type", "object"])
def test_types_that_run_code_are_refused(tmp_path: Path, kind: str) -> None:
    made = f"cdill._dill\n_load_type\n(V{kind}\ntR".encode()
    for rest in (b".", b"(I0\ntR.", b"(I0\nt\x81.", b")R}b."):
        path = pack(tmp_path / "evil.ckpt", made + rest)
        assert f"dill._dill._load_type('{kind}')" in refusal(path)
        assert any(kind in name for name in describe_trusted(path))


@pytest.mark.parametrize(
    "args", [b"(V_load_type\nI1\ntR.", b"(tR.", b"(c__builtin__\nstr\ntR.", b"((ttR.", b"(]tR."]
)
def test_odd_arguments_of_load_type_are_refused(tmp_path: Path, args: bytes) -> None:
    assert "_load_type" in refusal(pack(tmp_path / "a.ckpt", b"cdill._dill\n_load_type\n" + args))


DICT = b"ccollections\nOrderedDict\n"
NODE = b"comegaconf.dictconfig\nDictConfig\n"


@pytest.mark.parametrize(
    "value",
    {
        "call a result": DICT + b")R)R",
        "call a list": b"])R",
        "call a string": b"Veval\n)R",
        "state of a name": DICT + b"}V__call__\nI1\nsb",
        "slot state of a name": DICT + b"N}V__code__\nI1\ns\x86b",
        "state of a dict": b"}}b",
        "state of a tuple": b")}b",
        "new of a list": b"])\x81",
        "node without state": NODE + b")\x81",
        "node with a list as state": NODE + b")\x81]b",
        "node of nothing": NODE + b")\x81}b",
        "append to a dict": b"}I1\na",
        "append to a name": DICT + b"I1\na",
        "set in a list": b"]I1\nI2\ns",
        "list as a key": b"}]I1\ns",
        "dict as a key": b"}}I1\ns",
        "odd number of entries": b"}(I1\nu",
        "empty stack": b"0000000",
        "no such memo": b"g9\n",
        "no mark": b"t",
        "extension": b"\x82\x01",
        "text persistent id": b"Pos.system\n",
        "persistent id in the open": b"V1\nQ",
        "protocol 9": b"\x80\x09N",
        "computed name": b"(ttV1\n\x93",
        "name of numbers": b"K\x01K\x02\x93",
        "huge integer": b"\x8b\x00\x10\x00\x00" + b"\x7f" * 4096,
        "huge length": b"\x8e" + b"\xff" * 7 + b"\x7f",
        "huge memo": b"Nr\xff\xff\xff\x7f0j\xff\xff\xff\x7e",
        "rot13": b"c_codecs\nencode\n(Vabc\nVrot13\ntR",
        "bytes of a number": b"c__builtin__\nbytes\n(L999999999999L\ntR",
        "list of itself": b"]q\x00h\x00a",
        "dict of itself": b"}q\x00I1\nh\x00s",
        "nested": b"(" * 100_000 + b"t" * 100_000,
        "nested key": b"}" + b")" + b"\x85" * 300_000 + b"Ns",
        "laughs": b"]q\x00"
        + b"".join(b"]q%c(" % (i + 1) + b"h%c" % i * 10 + b"e" for i in range(9)),
        "array with objects": b"cnumpy\ndtype\n(VO8\ntR",
        "array with a wrong shape": (
            b"cnumpy.core.multiarray\n_reconstruct\n)R"
            b"(I1\n(L99999999L\nI8\ntcnumpy\ndtype\n(Vf8\ntRI00\nC\x08" + b"a" * 8 + b"tb"
        ),
    }.items(),
    ids=lambda item: item[0],
)
def test_tricks_of_the_stack_machine_are_refused(tmp_path: Path, value: tuple[str, bytes]) -> None:
    head = b"}(Vstate_dicts\n}Vcfg\n}Vx\n"
    fields = (head, head.replace(b"Vcfg\n}Vx", b"Vcfg\n"))
    messages = [outcome(pack(tmp_path / "a.ckpt", field + value[1] + b"u.")) for field in fields]
    assert messages[1]
    assert max(map(len, messages)) < 400


def tensor_stream(storage: bytes, numel: str, offset: str, size: str, stride: str) -> bytes:
    """A payload with one tensor; numbers are given as text."""

    def numbers(text: str) -> bytes:
        return b"(" + b"".join(f"L{n}L\n".encode() for n in text.split()) + b"t"

    pid = b"(Vstorage\nctorch\n" + storage + b"\nV0\nVcpu\n" + f"L{numel}L\n".encode() + b"tQ"
    view = f"L{offset}L\n".encode() + numbers(size) + numbers(stride)
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + view + b"I00\nNtR"
    return b"}(Vcfg\n}Vstate_dicts\n}Vmodel\n}Vweight\n" + tensor + b"sssu."


def test_a_tensor_by_hand(tmp_path: Path) -> None:
    stream = tensor_stream(b"FloatStorage", "6", "1", "2 2", "3 1").replace(b"sssu.", b"ssu.")
    path = pack(tmp_path / "a.ckpt", stream, {"data/0": struct.pack("<6f", *range(6))})
    assert read(path).state_dicts["model"]["weight"].tolist() == [[1, 2], [4, 5]]


@pytest.mark.parametrize(
    ("storage", "numel", "offset", "size", "stride"),
    [
        (b"FloatStorage", "7", "0", "7", "1"),
        (b"FloatStorage", "3", "0", "3", "1"),
        (b"DoubleStorage", "6", "0", "6", "1"),
        (b"FloatStorage", "6", "0", "7", "1"),
        (b"FloatStorage", "6", "1", "6", "1"),
        (b"FloatStorage", "6", "0", "2 3", "4 1"),
        (b"FloatStorage", "6", "0", "999999999", "0"),
        (b"FloatStorage", "6", "-1", "2", "1"),
        (b"FloatStorage", "6", "5", "2", "-1"),
        (b"FloatStorage", "6", "0", "-2", "1"),
        (b"FloatStorage", "6", "7", "0", "1"),
        (b"FloatStorage", "6", "0", "2 3", "1"),
        (b"FloatStorage", "6", "9223372036854775807", "2", "9223372036854775807"),
        (b"FloatStorage", "-6", "0", "1", "1"),
        (b"FloatStorage", "6", "0", "1 " * 65, "1 " * 65),
        (b"UntypedStorage", "6", "0", "6", "1"),
    ],
)
def test_sizes_that_lie_are_refused(
    tmp_path: Path, storage: bytes, numel: str, offset: str, size: str, stride: str
) -> None:
    stream = tensor_stream(storage, numel, offset, size, stride).replace(b"sssu.", b"ssu.")
    refusal(pack(tmp_path / "a.ckpt", stream, {"data/0": bytes(24)}))


def test_zip_tricks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickled({**NO_CFG, "x": "a" * 10_000_000}))
    assert "larger than the file" in refusal(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickled({**NO_CFG, "x": os.urandom(3000).hex()}))
        file.writestr("archive/pad", os.urandom(10_000))
    assert refusal(path)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as file:
        warnings.simplefilter("ignore")
        for payload in (NO_CFG, Gadget(os.system, "true")):
            file.writestr("archive/data.pkl", pickled(payload))
    assert "one data.pkl" in refusal(path)
    with zipfile.ZipFile(pack(path, pickled(NO_CFG)), "a") as file:
        file.writestr("other/data.pkl", b"")
    assert "one data.pkl" in refusal(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/constants.pkl", b"")
    assert "one data.pkl" in refusal(path)
    stream = tensor_stream(b"FloatStorage", "6", "0", "6", "1").replace(b"sssu.", b"ssu.")
    assert "data/0" in refusal(pack(path, stream))


_SMALL = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def read_or_refuse(path: Path) -> None:
    outcome(path)
    with contextlib.suppress(CheckpointError):
        describe_trusted(path)


@_SMALL
@given(data=st.data())
def test_a_truncated_file_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = LIFT.read_bytes()
    path = tmp_path / "a.ckpt"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    refusal(path)


@_SMALL
@given(data=st.data())
def test_flipped_bytes_of_the_file_execute_nothing(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(LIFT.read_bytes())
    # The zip directory at the end is where flips get past the checksums.
    ends = st.one_of(
        st.integers(0, len(content) - 1), st.integers(len(content) - 20_000, len(content) - 1)
    )
    for position in data.draw(st.lists(ends, min_size=1, max_size=4)):
        content[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    read_or_refuse(path)


@_SMALL
@given(data=st.data())
def test_flipped_bytes_of_the_pickle_execute_nothing(tmp_path: Path, data: st.DataObject) -> None:
    with zipfile.ZipFile(LIFT) as file:
        root = file.namelist()[0].split("/")[0]
        stream = bytearray(file.read(f"{root}/data.pkl"))
        parts = {f"data/{i}": bytes(4) for i in range(3)}
    for position in data.draw(st.lists(st.integers(0, len(stream) - 1), min_size=1, max_size=6)):
        stream[position] = data.draw(st.integers(0, 255))
    read_or_refuse(pack(tmp_path / "a.ckpt", bytes(stream), parts))


_OPCODES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    b"(",
                    b"t",
                    b")",
                    b"]",
                    b"}",
                    b"R",
                    b"\x81",
                    b"b",
                    b"s",
                    b"u",
                    b"a",
                    b"e",
                    b"0",
                    b"2",
                ),
                *(b"\x85", b"\x86", b"\x87", b"\x8f", b"\x90", b"\x91", b"\x92", b"\x93", b"\x94"),
                *(b"h\x00", b"h\x01", b"o", b"Q", b"N", b"K\x02", b"Vlatin1\n", b"Vdict\n", b"Cab"),
                *(b"Vcfg\n", b"Vstate_dicts\n", b"Vpickles\n", b"cposix\nsystem\n", b"Vtouch x\n"),
                *(b"cdill._dill\n_load_type\n", b"c_codecs\nencode\n", DICT, NODE),
                *(b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\nscalar\n", b"cpathlib\nPath\n"),
                *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"Vstorage\n"),
            ]
        ),
        st.binary(max_size=3),
    ),
    max_size=40,
).map(b"".join)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(program=_OPCODES)
def test_random_programs_execute_nothing(tmp_path: Path, program: bytes) -> None:
    stream = b"}(Vstate_dicts\n}Vcfg\n" + program + b"u."
    read_or_refuse(pack(tmp_path / "a.ckpt", stream))
    nested = pickled({**NO_CFG, "pickles": {"epoch": program + b"."}})
    read_or_refuse(pack(tmp_path / "b.ckpt", nested))
