"""What a model file is, decided by its content and never by its name.

Called by ``load``, ``bare``, the packager and ``inspect``; calls the two structure readers.
*Data* can only compute, *Restricted* needs an allow-list, *Code* runs what its author wrote.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from collections.abc import Collection
from dataclasses import dataclass, field

from sluice.errors import PackageError
from sluice.package.expand import compression_of, expand
from sluice.package.manifest import TrustClass
from sluice.package.onnx_file import NotOnnxError, OnnxFile, read_onnx
from sluice.package.plain_text import printable

_JOBLIB = b"joblib.numpy_pickle"
_MAX_ZIP_ENTRIES = 100_000
_HEAD_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Sniffed:
    """A format, its class, and what was seen on the way."""

    format: str
    trust_class: TrustClass
    detail: str = ""
    onnx: OnnxFile | None = None
    problems: tuple[str, ...] = field(default=())
    """Why it will not be loaded whatever the policy says."""

    @property
    def pickled(self) -> bool:
        """Whether it is one pickle, as joblib and pickle write it."""
        return self.format in ("joblib", "pickle")


def sniff(data: bytes, *, external_files: Collection[str] = ()) -> Sniffed:
    """Classify ``data``; raises PackageError UnknownFormat or UnsafeModel.

    ``external_files`` are the files an ONNX model may keep tensors in.
    """
    found = look(data, external_files=external_files)
    if found.problems:
        raise PackageError(
            f"The model is not safe to load: {printable('; '.join(found.problems))[:400]}.",
            hint="Export it again with standard operators and its tensors inside the file.",
            reason="UnsafeModel",
        )
    return found


def look(data: bytes, *, external_files: Collection[str] = ()) -> Sniffed:
    """Like :func:`sniff`, but reports problems instead of raising for them."""
    if not data:
        raise _unknown("it is empty")
    compression = compression_of(data)
    if compression == "lz4":
        return Sniffed("joblib", "Code", "compressed with lz4")
    if compression:
        return _compressed(data, compression)
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip(data)
    if data[:1] == b"\x80" and len(data) > 1 and 2 <= data[1] <= 5:
        return _pickle(data)
    named = _by_magic(data)
    if named is not None:
        return named
    try:
        return _onnx(read_onnx(data), external_files)
    except NotOnnxError as error:
        if _is_old_pickle(data):
            return _pickle(data)
        raise _unknown(f"as ONNX, {error}") from None


def _pickle(data: bytes) -> Sniffed:
    if _JOBLIB in data:
        return Sniffed("joblib", "Code", "joblib with arrays")
    return Sniffed("pickle", "Code", "pickle")


def _compressed(data: bytes, compression: str) -> Sniffed:
    """joblib is the only one that compresses around a pickle; anything else is unknown."""
    stream, _ = expand(data)
    head = bytearray()
    damage = ""
    try:
        # Byte by byte: what came before a damage may run before the damage is met.
        while len(head) < _HEAD_BYTES and head[:1] != b"\x80" and (byte := stream.read(1)):
            head += byte
    except PackageError:
        raise
    except Exception as error:
        damage = str(error)[:100]
    if head[:1] == b"\x80" or _is_old_pickle(bytes(head)):
        return Sniffed("joblib", "Code", f"compressed with {compression}")
    if damage:
        raise _unknown(f"it starts like {compression}, but: {damage}")
    raise _unknown(f"it is {compression} around something that is not a pickle")


def _is_old_pickle(data: bytes) -> bool:
    """Protocols 0 and 1 have no magic: a whole stream, or one that names something and calls it.

    The second because a stream that breaks off later may have run by then.
    """
    named = False
    seen = 0
    try:
        for opcode, arg, _ in pickletools.genops(io.BytesIO(data)):
            seen += 1
            if opcode.name in ("GLOBAL", "INST"):
                named |= bool(re.fullmatch(r"[\w.]+ [\w.]+", str(arg)))
            if named and opcode.name in ("REDUCE", "INST", "OBJ", "NEWOBJ", "BUILD"):
                return True
            if seen > 10_000:
                return True
    except Exception:
        return False
    return seen > 1


def _onnx(model: OnnxFile, external_files: Collection[str]) -> Sniffed:
    problems = [
        f"operator {name} is not one that only computes" for name in model.unsafe_operators()[:5]
    ]
    problems += [
        f"it keeps tensors in {name!r}, which is not listed in the package"
        for name in sorted(model.external_files)[:5]
        if name not in external_files
    ]
    detail = f"{model.nodes} nodes, opset {model.opsets.get('', model.opsets.get('ai.onnx', 0))}"
    return Sniffed("onnx", "Data", detail, model, tuple(problems))


def _zip(data: bytes) -> Sniffed:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise _unknown(f"it is a damaged zip file: {str(error)[:100]}") from None
    if len(names) > _MAX_ZIP_ENTRIES:
        raise _unknown("it is a zip file with too many entries")
    leaves = {n.rsplit("/", 1)[-1] for n in names}
    if "schema.json" in leaves:
        return Sniffed("skops", "Restricted", f"{len(names)} entries")
    if "data.pkl" in leaves or any(n.endswith((".pkl", ".pickle", ".joblib")) for n in leaves):
        kind = "TorchScript" if "constants.pkl" in leaves else "zip with a pickle"
        return Sniffed("torch", "Code", f"{kind}, {len(names)} entries")
    if any(n.endswith(".npy") for n in leaves):
        return Sniffed("npz", "Code", "arrays may hold pickled objects")
    raise _unknown(f"it is a zip file with {', '.join(sorted(leaves)[:5])[:120]}")


def _by_magic(data: bytes) -> Sniffed | None:
    head = data[:4096].lstrip()
    if data[:4] == b"CBM1":
        return Sniffed("catboost", "Data", "CatBoost binary")
    if data[:9] == b"tree\nvers" or data[:5] == b"tree\r":
        return Sniffed("lightgbm", "Data", "LightGBM text")
    if data[:1] == b"{" and data[1:4] in (b"L\x00\x00", b"i\x07l", b"L\x00\x07"):
        return Sniffed("xgboost", "Data", "XGBoost UBJSON")
    if head[:1] == b"{" and b'"learner"' in head:
        return Sniffed("xgboost", "Data", "XGBoost JSON")
    if len(data) > 9 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        size = int.from_bytes(data[:8], "little")
        try:
            json.loads(data[8 : 8 + min(size, 100_000_000)])
        except (ValueError, RecursionError):
            return None
        return Sniffed("safetensors", "Data", "safetensors")
    if data[:8] == b"\x89HDF\r\n\x1a\n":
        return Sniffed("hdf5", "Code", "HDF5; Keras files may hold code")
    if data[:6] == b"\x93NUMPY":
        return Sniffed("npy", "Code", "an array may hold pickled objects")
    if data[4:8] == b"ORTM":  # what ONNX Runtime goes by, even where ONNX could be read
        raise _unknown("it is a file in ONNX Runtime's own format (ORT)")
    if data[257:262] == b"ustar":
        raise _unknown("it is a tar archive, as the first versions of PyTorch wrote")
    return None


def _unknown(why: str) -> PackageError:
    return PackageError(
        f"The model file is in no format that Sluice knows: {printable(why)}.",
        hint="It may be truncated. Save it as ONNX, or with joblib.dump or pickle.dump.",
        reason="UnknownFormat",
    )
