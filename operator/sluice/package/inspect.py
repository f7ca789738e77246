"""What a package or a model file is, without loading it.

Called by ``sluice inspect``; calls the verifier and the sniffers.  Bad input is part of what it
reports, so it describes problems instead of stopping at the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sluice.errors import PackageError
from sluice.package.inspect_archive import inspect_archive
from sluice.package.inspect_pickle import inspect_pickle
from sluice.package.load import Package, open_package
from sluice.package.manifest import MANIFEST_NAME, digest_of, to_dict
from sluice.package.plain_text import printable
from sluice.package.sniff import look
from sluice.package.trust import requires_trust, ways_out
from sluice.signature import SIGNATURE_NAME

MAX_FILE_BYTES = 4 * 1024**3
_READERS = {
    **dict.fromkeys(("joblib", "pickle"), inspect_pickle),
    **dict.fromkeys(("torch", "npz", "npy", "skops"), inspect_archive),
}


def imports_of(package: Package) -> list[str]:
    """What loading the model would import, read from its bytes: a manifest may claim less."""
    model = package.manifest.model
    if model.trust_class == "Data":
        return []
    return _READERS[model.format](package.model_bytes).imports


def inspect(path: Path) -> dict[str, Any]:
    """A JSON-ready description; ``problems`` is empty when the package could be served here."""
    try:
        package = open_package(path, check_environment=False)
    except PackageError as error:
        return _not_a_package(path, error)
    return _describe(package)


def _describe(package: Package) -> dict[str, Any]:
    from sluice.package.environment import check_environment

    problems = []
    try:
        check_environment(package.manifest)
    except PackageError as error:
        problems.append({"reason": error.reason, "message": str(error)})
    result: dict[str, Any] = {
        "path": str(package.path),
        "kind": "bare" if package.bare else "package",
        "digest": package.digest,
        "size": package.size,
        "needsTrust": requires_trust(package.manifest) is not None,
        "golden": len(package.golden()),
        "profile": package.profile() is not None,
        "signed": not package.bare and (package.path / SIGNATURE_NAME).is_file(),
        "wheels": list(package.manifest.wheels),
        "unlisted": _unlisted(package),
        "problems": problems,
        **to_dict(package.manifest),
        "imports": imports_of(package),
    }
    return result


def _unlisted(package: Package) -> list[str]:
    """Files in the folder that the manifest does not cover; they are never read."""
    if package.bare:
        return []
    listed = {f.path for f in package.manifest.files} | {MANIFEST_NAME, SIGNATURE_NAME}
    found = (p for p in package.path.rglob("*") if not p.is_dir() or p.is_symlink())
    names = (str(p.relative_to(package.path)) for p in found)
    return sorted(n for n in names if n not in listed)[:100]


def _not_a_package(path: Path, error: PackageError) -> dict[str, Any]:
    result: dict[str, Any] = {"path": str(path), "kind": "file"}
    result["problems"] = [{"reason": error.reason, "message": str(error)}]
    if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
        return result
    data = path.read_bytes()
    result |= {"digest": digest_of(data), "size": len(data)}
    try:
        found = look(data)
    except PackageError:
        return result
    result |= {"format": found.format, "class": found.trust_class, "detail": found.detail}
    if found.format not in _READERS:
        return result
    try:
        report = _READERS[found.format](data)
    except PackageError as problem:
        if str(problem) != str(error):
            result["problems"].append({"reason": problem.reason, "message": str(problem)})
        return result
    result["imports"] = report.imports
    if found.pickled:
        result |= {
            "compression": report.compression,
            "expandedBytes": report.expanded_bytes,
            "waysOut": ways_out(str(path)),
        }
    if report.problem:
        result["problems"].append({"reason": "Incomplete", "message": report.problem})
    return result


def table(report: dict[str, Any]) -> list[str]:
    """The same for a person."""
    lines = [f"{report['path']}  ({report['kind']})"]
    if "digest" in report:
        lines.append(f"  digest      {report['digest']}  {report['size']} bytes")
    if report["kind"] == "file":
        lines += _file_lines(report)
    else:
        lines += _package_lines(report)
    lines += [f"  problem     {p['reason']}: {p['message']}" for p in report["problems"]]
    return [printable(line) for line in lines]


def _file_lines(report: dict[str, Any]) -> list[str]:
    if "format" not in report:
        return []
    lines = [f"  format      {report['format']}, class {report['class']} ({report['detail']})"]
    return lines + _import_lines(report.get("imports", []))


def _package_lines(report: dict[str, Any]) -> list[str]:
    model, output = report["model"], report["output"]
    trust = "needs a TrustPolicy" if report["needsTrust"] else "needs no trust decision"
    lines = [
        f"  model       {report['name']}: {report['task']}, {model['file']} "
        f"({model['format']}, class {model['class']}; {trust})",
        f"  conversion  {report['conversion']['parity']}: {report['conversion']['detail']}",
        f"  checks      {report['golden']} golden examples, "
        f"{'a' if report['profile'] else 'no'} reference profile",
    ]
    if report["signed"]:
        lines.append("  signature   present; `sluice verify` says whose")
    if output.get("labels"):
        positive = f", positive {output['positive']!r}" if "positive" in output else ""
        lines.append(
            f"  output      {output['scoreName']} of {output['labels'][:10]}{positive}, "
            f"threshold {output['threshold']}"
        )
    requires = report["environment"]["requires"]
    if requires:
        wanted = ", ".join(f"{k} {v}" for k, v in sorted(requires.items()))
        python = report["environment"]["python"]
        lines.append(f"  needs       {f'Python {python}, ' if python else ''}{wanted}")
    if report["wheels"]:
        lines.append(f"  brings      {', '.join(report['wheels'][:10])}")
    lines.append("  inputs")
    lines += [f"    {_input_line(spec)}" for spec in report["inputs"][:60]]
    if len(report["inputs"]) > 60:
        lines.append(f"    … and {len(report['inputs']) - 60} more")
    lines += _import_lines(report.get("imports", []))
    if report["unlisted"]:
        lines.append(
            f"  not covered by the digest, never read: {', '.join(report['unlisted'][:5])}"
        )
    return lines


def _input_line(spec: dict[str, Any]) -> str:
    parts = [f"{spec['name']:<24} {spec['type']:<7}"]
    parts.append("may be missing" if spec["nullable"] else "required      ")
    if spec.get("min") is not None:
        parts.append(f"{spec['min']:g} … {spec['max']:g}")
    if spec.get("categories"):
        shown = ", ".join(spec["categories"][:6])
        parts.append(shown + (", …" if len(spec["categories"]) > 6 else ""))
    return "  ".join(parts)


def _import_lines(imports: list[str]) -> list[str]:
    if not imports:
        return []
    lines = [f"  imports     {len(imports)} name(s) when loaded"]
    lines += [f"    {name}" for name in imports[:40]]
    return lines + ([f"    … and {len(imports) - 40} more"] if len(imports) > 40 else [])
