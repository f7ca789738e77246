"""A pod's volumes: directories under the pod's own, kept current while it runs.

Called by ``pod``.  Files change the way the kubelet's atomic writer changes them: a new directory
is filled and the ``..data`` link is swapped, so a reader sees all of one version.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from sluice.local.node.client import ApiError, Client, Object
from sluice.local.node.environment import ConfigError, Environment

Files = dict[str, tuple[bytes, int]]
_READ_ONLY = ("configMap", "secret", "projected", "downwardAPI")


class VolumeError(Exception):
    """FailedMount: a volume cannot be set up (yet)."""


def write_atomically(directory: Path, files: Files) -> bool:
    """Make ``directory`` show exactly ``files``; False when it already does."""
    directory.mkdir(parents=True, exist_ok=True)
    data = directory / "..data"
    before = Path(os.path.realpath(data)) if data.exists() else None
    if before is not None and _same(before, files):
        return False
    version = directory / f"..{time.strftime('%Y_%m_%d_%H_%M_%S')}.{secrets.token_hex(4)}"
    version.mkdir()
    for name, (content, mode) in files.items():
        target = version / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(mode)
    fresh = directory / "..data_tmp"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(version.name)
    fresh.replace(data)
    wanted = {name.split("/")[0] for name in files}
    for name in wanted:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(Path("..data") / name)
    for entry in directory.iterdir():
        if not entry.name.startswith("..") and entry.name not in wanted:
            entry.unlink()
    if before is not None:
        shutil.rmtree(before, ignore_errors=True)
    return True


def _same(directory: Path, files: Files) -> bool:
    present = {str(p.relative_to(directory)): p for p in directory.rglob("*") if p.is_file()}
    return present.keys() == files.keys() and all(
        present[n].read_bytes() == content and present[n].stat().st_mode & 0o777 == mode
        for n, (content, mode) in files.items()
    )


def _pick(data: dict[str, bytes], source: Object, mode: int, optional: bool) -> Files:
    mode = source.get("defaultMode", mode)
    items = source.get("items")
    if not items:
        return {key: (value, mode) for key, value in data.items()}
    picked: Files = {}
    for item in items:
        if item["key"] in data:
            picked[item["path"]] = (data[item["key"]], item.get("mode", mode))
        elif not optional:
            raise VolumeError(f"references non-existent key: {item['key']}")
    return picked


class Volumes:
    """The volumes of one pod."""

    def __init__(self, client: Client, root: Path, value_of: Any) -> None:
        self._client = client
        self._root = root
        self._value_of = value_of
        self._paths: dict[str, Path] = {}
        self._read_only: set[str] = set()
        self._pod: Object = {}
        self._sources = Environment(client, "")
        self.refresh_at = float("inf")  # when a token must be renewed

    def path(self, name: str) -> Path:
        """Where a volume's content is on this machine."""
        return self._paths[name]

    def is_read_only(self, name: str) -> bool:
        """Whether the volume is read-only whatever its mount says."""
        return name in self._read_only

    async def set_up(self, pod: Object) -> None:
        """Materialise every volume; raises VolumeError until all are there."""
        self._pod = pod
        self._sources = Environment(self._client, pod["metadata"]["namespace"])
        for volume in pod["spec"].get("volumes", []):
            if volume["name"] not in self._paths:
                self._paths[volume["name"]] = await self._place(volume)
        await self.refresh(pod)

    async def _place(self, volume: Object) -> Path:
        name: str = volume["name"]
        if "hostPath" in volume:
            return _host_path(volume["hostPath"])
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]
            if claim.get("readOnly"):
                self._read_only.add(name)
            return await self._claimed(claim["claimName"])
        if "emptyDir" in volume:
            path = self._root / "empty" / name
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o777)
            return path
        if not any(k in volume for k in _READ_ONLY):
            kind = next(k for k in volume if k != "name")
            raise VolumeError(f'volume "{name}": the local node has no volumes of kind {kind}')
        self._read_only.add(name)
        return self._root / "files" / name

    async def _claimed(self, claim: str) -> Path:
        namespace = self._pod["metadata"]["namespace"]
        try:
            found = await self._client.get(
                f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}"
            )
            name = found["spec"].get("volumeName")
            if not name:
                raise VolumeError(f'persistentvolumeclaim "{claim}" is not bound')
            volume = (await self._client.get(f"/api/v1/persistentvolumes/{name}"))["spec"]
        except ApiError as error:
            raise VolumeError(str(error)) from error
        source = volume.get("hostPath") or volume.get("local")
        if not source:
            raise VolumeError(
                f'persistentvolume "{name}": the local node mounts hostPath and local only'
            )
        return _host_path(source)

    async def refresh(self, pod: Object) -> bool:
        """Bring files up to date with what they come from; True when something changed."""
        self._pod = pod
        changed = False
        for volume in pod["spec"].get("volumes", []):
            name = volume["name"]
            if name in self._paths and any(k in volume for k in _READ_ONLY):
                files = await self._content(name, volume)
                changed |= write_atomically(self._paths[name], files)
        return changed

    def depends_on(self, kind: str, name: str) -> bool:
        """Whether a ConfigMap or Secret feeds one of the volumes."""
        for volume in self._pod.get("spec", {}).get("volumes", []):
            for source in [volume, *volume.get("projected", {}).get("sources", [])]:
                ref = source.get("configMap" if kind == "ConfigMap" else "secret")
                if ref and name in (ref.get("name"), ref.get("secretName")):
                    return True
        return False

    async def _content(self, name: str, volume: Object) -> Files:
        try:
            if projected := volume.get("projected"):
                files: Files = {}
                mode = projected.get("defaultMode", 0o644)
                for source in projected.get("sources", []):
                    files |= await self._source(source, mode)
                return files
            return await self._source(volume, 0o644)
        except ConfigError as error:
            raise VolumeError(f'MountVolume.SetUp failed for volume "{name}": {error}') from error

    async def _source(self, source: Object, mode: int) -> Files:
        for key, kind in (("configMap", "configmaps"), ("secret", "secrets")):
            if ref := source.get(key):
                optional = bool(ref.get("optional"))
                wanted = ref.get("name") or ref.get("secretName")
                data = await self._sources.data(kind, wanted, optional=optional)
                return _pick(data, ref, mode, optional)
        if "downwardAPI" in source:
            mode = source["downwardAPI"].get("defaultMode", mode)
            items = source["downwardAPI"].get("items", [])
            return {
                i["path"]: (str(self._value_of(i)).encode(), i.get("mode", mode)) for i in items
            }
        if token := source.get("serviceAccountToken"):
            return {token["path"]: (await self._token(token), mode)}
        return {}

    async def _token(self, token: Object) -> bytes:
        """A bound token, kept until four fifths of its life are over."""
        kept = self._root / "tokens" / (token.get("audience") or "default")
        lifetime = token.get("expirationSeconds", 3600)
        with contextlib.suppress(FileNotFoundError):
            renew_at = kept.stat().st_mtime + 0.8 * lifetime
            if time.time() < renew_at:
                self.refresh_at = min(self.refresh_at, renew_at)
                return kept.read_bytes()
        meta = self._pod["metadata"]
        account = self._pod["spec"].get("serviceAccountName", "default")
        bound = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
        request: Object = {"expirationSeconds": lifetime, "boundObjectRef": bound}
        if token.get("audience"):
            request["audiences"] = [token["audience"]]
        path = f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": request}
        try:
            answer = await self._client.post(path, body)
        except ApiError as error:
            raise ConfigError(str(error)) from error
        value = str(answer["status"]["token"]).encode()
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(value)
        kept.chmod(0o600)
        self.refresh_at = min(self.refresh_at, time.time() + 0.8 * lifetime)
        return value


def _host_path(source: Object) -> Path:
    path, kind = Path(source["path"]), source.get("type", "")
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if not path.exists():
        raise VolumeError(f"hostPath {path} does not exist")
    return path
