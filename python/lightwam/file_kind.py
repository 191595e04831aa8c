# SPDX-License-Identifier: Apache-2.0
"""What a file or folder is, by its content: to say so where another kind was expected.

The C++ runtime has a smaller table of the same kind for engine files (csrc/engine/file_kind.cpp).
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path

_HEAD = 1024  # bytes that are looked at
_FETCH = "fetch it again"
_UNPACK = "unpack it, and give what is inside"


@dataclass(frozen=True)
class FileKind:
    """`name`: one word for programs ('safetensors', 'lfs', ..., 'unknown'). `what`: a phrase for people, with an
    article. `remedy`: what to do where another kind was expected; empty where that depends on who expects what."""

    name: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}" if self.remedy else self.what

    def told(self, remedy: str) -> str:
        """As text, with this remedy where the kind has none of its own."""
        return f"{self.what}: {self.remedy or remedy}"


# Bytes at the start -> kind. The longer ones first where one begins as another does.
_MAGIC = (
    (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", FileKind("torch", "a torch.save file of the format before 1.6")),
    (b"\x93NUMPY", FileKind("npy", "a NumPy array (.npy)")),
    (b"\x89HDF\r\n\x1a\n", FileKind("hdf5", "an HDF5 file")),
    (b"GGUF", FileKind("gguf", "a GGUF file (llama.cpp)", "give the PyTorch or safetensors weights it was made from")),
    (b"ftrt", FileKind("tensorrt", "a TensorRT engine", "it cannot be converted; start from the weights")),
    (b"ptrt", FileKind("tensorrt", "a TensorRT engine", "it cannot be converted; start from the weights")),
    (b"PAR1", FileKind("parquet", "a Parquet table")),
    (b"ARROW1", FileKind("arrow", "an Arrow file")),
    (b"SQLite format 3\x00", FileKind("sqlite", "an SQLite database")),
    (b"\x1f\x8b", FileKind("gzip", "a gzip archive", _UNPACK)),
    (b"BZh", FileKind("bzip2", "a bzip2 archive", _UNPACK)),
    (b"\xfd7zXZ\x00", FileKind("xz", "an xz archive", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", FileKind("zstd", "a Zstandard archive", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", FileKind("7z", "a 7-Zip archive", _UNPACK)),
    (b"Rar!\x1a\x07", FileKind("rar", "a RAR archive", _UNPACK)),
    (b"\x7fELF", FileKind("elf", "an ELF program or library")),
    (b"\x89PNG\r\n\x1a\n", FileKind("image", "a PNG image")),
    (b"\xff\xd8\xff", FileKind("image", "a JPEG image")),
    (b"GIF8", FileKind("image", "a GIF image")),
    (b"%PDF", FileKind("pdf", "a PDF document")),
    (b"/annex/objects/", FileKind("annex", "a git-annex pointer, not the file itself", "run `git annex get` there")),
    (b"outs:\n", FileKind("dvc", "a DVC pointer, not the file itself", "run `dvc pull` there")),
    (
        b"\x00\x05\x16\x07\x00",
        FileKind("appledouble", "what macOS keeps beside a file ('._' before its name)", "give the file without '._'"),
    ),
    (b"\x1aE\xdf\xa3", FileKind("video", "a Matroska or WebM video")),
    (b"PK\x05\x06", FileKind("zip", "an empty zip archive", _FETCH)),
    (b"\xff\xfe", FileKind("text", "text in UTF-16", "save it as UTF-8")),
    (b"\xfe\xff", FileKind("text", "text in UTF-16", "save it as UTF-8")),
)
_LFS = b"version https://git-lfs.github.com/spec/"
_HTML = re.compile(rb"(?i)(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype html|html|head|body)", re.DOTALL)
_PARTIAL = (".part", ".partial", ".crdownload", ".download", ".incomplete", ".aria2", ".tmp")
_DTYPES = re.compile(rb'"dtype"\s*:|"__metadata__"\s*:|^\{\s*\}')


def file_kind(path: str | os.PathLike[str]) -> FileKind:
    """Look at a path. Reads the first kilobyte, of zip archives and safetensors files also their list of contents.

    A path that cannot be read has the kind 'missing' or 'unreadable'; nothing is raised.
    """
    file = Path(path)
    try:
        mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            return _folder_kind(file)
        if not stat.S_ISREG(mode):
            return FileKind("special", "not an ordinary file (a device, pipe or socket)", "give a file")
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
        return _content_kind(file, head)
    except FileNotFoundError:
        return FileKind("missing", "missing")
    except (OSError, ValueError) as error:
        return FileKind("unreadable", f"unreadable ({getattr(error, 'strerror', None) or error})")


def _content_kind(file: Path, head: bytes) -> FileKind:
    if not head:
        return FileKind("empty", "empty (0 bytes)", _FETCH)
    if head.startswith(_LFS):
        return _lfs_kind(head)
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(file)
    if (safetensors := _safetensors_kind(file, head)) is not None:
        return safetensors
    if head[4:8] == b"ftyp":
        return FileKind("video", "an MP4 video")
    if head[257:262] == b"ustar":
        return FileKind("tar", "a tar archive", _UNPACK)
    if head[4:8] == b"TFL3":
        return FileKind("tflite", "a TensorFlow Lite model")
    if head[0] == 0x80 and len(head) > 1 and 2 <= head[1] <= 5:
        return FileKind("pickle", "a Python pickle")
    if _is_onnx(file, head):
        return FileKind("onnx", "an ONNX model", "give the checkpoint or engine it was made from")
    if not head.strip(b"\x00"):
        return FileKind("zeros", "zero bytes at its start (a download that never finished)", _FETCH)
    return _text_kind(head) or _kind_by_name(file)


def _lfs_kind(head: bytes) -> FileKind:
    size = re.search(rb"^size (\d+)", head, re.MULTILINE)
    of = f" to {int(size[1]):,} bytes" if size else ""
    return FileKind(
        "lfs", f"a Git LFS pointer{of}, not the file itself", "run `git lfs pull` in its repository, or download it"
    )


def _zip_kind(file: Path) -> FileKind:
    """torch.save, TorchScript and NumPy write zip archives too."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return FileKind("truncated", "a zip archive (torch.save writes those) that is cut off or damaged", _FETCH)
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return FileKind("torchscript", "a TorchScript archive", "save the state_dict of what torch.jit.load gives")
    if "data.pkl" in inner:
        return FileKind("torch", "a torch.save file")
    if names and all(name.endswith(".npy") for name in names):
        return FileKind("npz", "a NumPy archive (.npz)")
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return FileKind("zip", f"a zip archive ({shown or 'empty'})", _UNPACK)


def _safetensors_kind(file: Path, head: bytes) -> FileKind | None:
    """Of a file that begins with a safetensors header; an engine file has our metadata in it."""
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or not 2 <= length < 1 << 32 or not _DTYPES.search(head[8:]):
        return None
    size = file.stat().st_size
    if 8 + length > size:
        return FileKind("truncated", f"a safetensors file that is cut off ({size} of its bytes are there)", _FETCH)
    with file.open("rb") as stream:
        stream.seek(8)
        header = stream.read(min(length, 1 << 27))
    if b'"lightwam":' in header or b'"lightwam" :' in header:
        return FileKind("engine", "an engine file of lightwam")
    return FileKind("safetensors", "a safetensors file")


def _is_onnx(file: Path, head: bytes) -> bool:
    """A protobuf message that begins with the version of ONNX's IR and a second field of a model."""
    begins = len(head) > 3 and head[0] == 0x08 and 1 <= head[1] <= 20 and head[2] in (0x12, 0x1A, 0x3A, 0x42)
    return begins and (file.suffix == ".onnx" or b"graph" in head or b"onnx" in head or head[2] == 0x12)


def _text_kind(head: bytes) -> FileKind | None:
    """HTML, JSON, or text; None for bytes that are no text."""
    body = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _HTML.match(body):
        title = re.search(rb"(?is)<title[^>]*>(.*?)</title", body)
        named = f" ({_words(title[1])})" if title and title[1].strip() else ""
        return FileKind("html", f"an HTML page{named}, not the file itself", "download it again, logged in")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(body) - 4 or len(head) < _HEAD:  # not just a character that the kilobyte cuts
            return None
        text = body[: error.start].decode("utf-8")
    if any(not c.isprintable() and c not in "\t\n\r\f" for c in text):
        return None
    if body[:1] in (b"{", b"["):
        return FileKind("json", f"JSON ({_words(body)})")
    if body[:1] == b"<":
        return FileKind("xml", f"XML ({_words(body)})")
    return FileKind("text", f"text ({_words(body)})") if text.strip() else FileKind("text", "white space only", _FETCH)


def _words(text: bytes, most: int = 60) -> str:
    line = " ".join(text.decode("utf-8", "replace").split())
    return f"'{line}'" if len(line) <= most else f"'{line[:most]}...'"


def _kind_by_name(file: Path) -> FileKind:
    suffix = file.suffix.lower()
    if suffix in _PARTIAL:
        return FileKind("truncated", f"by its name ({suffix}) a download that is not finished", _FETCH)
    if suffix in (".engine", ".plan", ".trt"):
        return FileKind("tensorrt", f"by its name ({suffix}) a TensorRT engine", "it cannot be converted")
    return FileKind("unknown", "of a kind that lightwam does not know")


def _folder_kind(folder: Path) -> FileKind:
    names = {entry.name for entry in folder.iterdir()}
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        command = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE.pt"
        return FileKind("dcp", "a sharded checkpoint of torch.distributed", f"run `{command}`, and give FILE.pt")
    if "zero_to_fp32.py" in names or any(name.startswith("zero_pp_rank") for name in names):
        return FileKind("deepspeed", "a DeepSpeed checkpoint", "join it with the zero_to_fp32.py that lies in it")
    if "manifest.ocdbt" in names or "_METADATA" in names:
        return FileKind("orbax", "an Orbax checkpoint of JAX", "save its parameters from PyTorch")
    if "adapter_config.json" in names:
        return FileKind("peft", "a PEFT adapter", "merge it (merge_and_unload) and save the whole model")
    if "saved_model.pb" in names:
        return FileKind("tensorflow", "a TensorFlow SavedModel", "save its weights from PyTorch")
    if "meta" in names and (folder / "meta" / "info.json").is_file():
        return FileKind("lerobot", "a LeRobot data set")
    if not names:
        return FileKind("empty folder", "an empty folder")
    return FileKind("folder", "a folder")
