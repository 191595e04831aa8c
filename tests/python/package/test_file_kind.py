# SPDX-License-Identifier: Apache-2.0
"""Files are named for what they are, by content: in Python, and by the C++ reader of engine files."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lightwam.engine.file import read_engine
from lightwam.errors import ConfigError, EngineError
from lightwam.file_kind import file_kind
from lightwam.files import read_json
from lightwam.runtime import Policy

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0a1b\nsize 18703444\n"
HTML = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"


def numpy_bytes(archive: bool) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3)) if archive else np.save(stream, np.zeros(3))
    return stream.getvalue()


def zip_bytes(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return stream.getvalue()


def tar_bytes() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pt"))
    return stream.getvalue()


def safetensors_bytes(metadata: str = "") -> bytes:
    header = {"__metadata__": {"lightwam": metadata}} if metadata else {}
    text = json.dumps({**header, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


# kind, content, a word of the C++ reader's message
FILES = [
    ("lfs", LFS, "Git LFS pointer, .*git lfs pull"),
    ("html", HTML, "HTML page"),
    ("html", b"<!-- moved --><HTML><body>404</body></HTML>", "HTML page"),
    ("xml", b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>", "XML"),
    ("json", b'{"error": "Entry not found"}', "JSON"),
    ("json", b"\xef\xbb\xbf[1, 2]", "JSON"),
    ("text", b"Not Found, and some more words", "text file"),
    ("text", "{}".encode("utf-16"), ""),
    ("text", '{"a": [1, 2, 3]}'.encode("utf-16"), "text in UTF-16"),
    ("annex", b"/annex/objects/SHA256E-s18703444--0a1b.lwam\n", "git-annex pointer, .*git annex get"),
    ("dvc", b"outs:\n- md5: 0a1b\n  size: 18703444\n  path: policy.lwam\n", "DVC pointer, .*dvc pull"),
    ("appledouble", b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(60), "macOS"),
    ("pdf", b"%PDF-1.7\n" + bytes([255, 1] * 30), "PDF"),
    ("sqlite", b"SQLite format 3\x00" + bytes(90), "SQLite"),
    ("unknown", b"\x85\xa6params\x82\xa5dense" + bytes(20), "no kind that is known .*85 a6 70 61"),  # msgpack of Flax
    ("empty", b"", "is empty"),
    ("zeros", bytes(4096), "zero bytes"),
    ("torch", zip_bytes("policy/data.pkl", "policy/version"), "torch.save"),
    ("torch", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "torch.save"),
    ("torchscript", zip_bytes("m/data.pkl", "m/constants.pkl", "m/code/x.py"), "zip archive"),
    ("npz", numpy_bytes(archive=True), "zip archive"),
    ("npy", numpy_bytes(archive=False), "NumPy array"),
    ("zip", zip_bytes("readme.txt"), "zip archive"),
    ("truncated", zip_bytes("policy/data.pkl", "policy/version")[:60], "zip archive"),
    ("pickle", pickle.dumps({"a": 1}), "pickle"),
    ("gzip", gzip.compress(bytes(300)), "gzip"),
    ("tar", tar_bytes(), "tar archive"),
    ("safetensors", safetensors_bytes(), "not an engine file"),
    ("engine", safetensors_bytes("{}"), ""),
    ("truncated", safetensors_bytes()[:50], "truncated"),
    ("gguf", b"GGUF\x03\x00\x00\x00" + bytes(30), "GGUF"),
    ("tensorrt", b"ftrt" + bytes(40), "TensorRT"),
    ("onnx", b"\x08\x0b\x12\x07pytorch\x1a\x032.4:\x10graph", "ONNX"),
    ("hdf5", b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
    ("parquet", b"PAR1" + bytes(20), "Parquet"),
    ("video", b"\x00\x00\x00\x20ftypisom" + bytes(20), "MP4"),
    ("unknown", bytes([200, 3, 7, 255]) * 9, "first bytes are c8 03 07 ff"),
    ("text", b" " * 100, "no kind that is known"),
]


@pytest.mark.parametrize("kind, content, told", FILES, ids=[f"{n}-{row[0]}" for n, row in enumerate(FILES)])
def test_files(tmp_path: Path, kind: str, content: bytes, told: str) -> None:
    path = tmp_path / "policy.lwam"
    path.write_bytes(content)
    found = file_kind(path)
    assert found.name == kind and "\n" not in found.what and found.what
    with pytest.raises(EngineError, match=f"(?s)policy.lwam.*{told}") as of_runtime:
        Policy(path)
    with pytest.raises(EngineError, match=r"policy\.lwam") as of_python:
        read_engine(path)
    assert all("\n" not in str(error.value) for error in (of_runtime, of_python))
    if kind not in ("safetensors", "engine", "unknown"):
        assert found.what in str(of_python.value)


def test_a_title_and_a_size_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(HTML)
    (tmp_path / "b").write_bytes(LFS)
    assert "'Sign in'" in file_kind(tmp_path / "a").what and "18,703,444 bytes" in file_kind(tmp_path / "b").what


def test_a_header_length_that_looks_like_a_mark(tmp_path: Path) -> None:
    """A safetensors header may be 0x8b1f bytes long, as a gzip archive begins."""
    text = b'{"__metadata__":{}}'.ljust(0x8B1F)
    (tmp_path / "a").write_bytes((0x8B1F).to_bytes(8, "little") + text)
    with pytest.raises(EngineError, match="no metadata entry 'lightwam'"):
        Policy(tmp_path / "a")


@pytest.mark.parametrize(
    "files, kind, told",
    [
        ([], "empty folder", "empty"),
        ([".metadata", "__0_0.distcp"], "dcp", "dcp_to_torch"),
        (["zero_to_fp32.py", "latest"], "deepspeed", "zero_to_fp32.py"),
        (["_METADATA"], "orbax", "Orbax"),
        (["adapter_config.json"], "peft", "merge_and_unload"),
        (["meta/info.json"], "lerobot", "LeRobot"),
        (["x"], "folder", "folder"),
    ],
)
def test_folders(tmp_path: Path, files: list[str], kind: str, told: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert file_kind(tmp_path).name == kind and told in str(file_kind(tmp_path))
    with pytest.raises(EngineError, match="a folder"):
        Policy(tmp_path)


@pytest.mark.parametrize(
    "content, told", [(LFS, "git lfs pull"), (HTML, "HTML page"), (b"", "empty"), (b"{", "Expect")]
)
def test_json_files(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "stats.json").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"thing .*stats\.json is .*{told}"):
        read_json(tmp_path / "stats.json", "thing", ConfigError, "measure it again")


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json", "thing", ConfigError, "") == {"a": 1}
