"""build/demo.json, build/demo.html and the summary.  Called by ``__main__``."""

from __future__ import annotations

import html
import itertools
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from demo.stage import NAME, NAMESPACE, ROOT, Stage
from demo.story import Told
from sluice.local import binaries
from sluice.local.settings import ETCD_VERSION, KUBERNETES_VERSION
from sluice.version import __version__

JSON = ROOT / "build" / "demo.json"
HTML = ROOT / "build" / "demo.html"
COLOURS = ["#2f6f4f", "#3b7dd8", "#d8843b", "#b0413e", "#7a5ba8", "#6b8e23", "#c05a8a", "#4a9a9a"]
WIDTH, HEIGHT = 1000, 180


def write_json(stage: Stage, told: Told) -> dict[str, Any]:
    """The machine-readable result."""
    causes = stage.totals().get("causes", {})
    for name, verdict in told.verdicts.items():
        if name != "v4-again":  # Its package is v4's; only what came after the refusal counts.
            verdict["requests"] = told.received(name, stage.totals())
    v4, slow = (r.seconds(stage.totals(), told.hashes[r.name]) for r in told.reactions)
    told.rollback = v4
    told.watch_rollback = {**slow, "pods_started": told.pods_started}
    result = {
        "revisions": told.verdicts,
        "requests": {
            "total": sum(causes.values()),
            "failed_by_routing": _sum(causes, "routing", "connection"),
            "failed_by_model": _sum(causes, "model"),
            "malformed_by_the_broken_client": causes.get("noise", 0),
            "causes": causes,
        },
        "rollback": told.rollback,
        "watch_rollback": told.watch_rollback,
        "counterfactual": told.counterfactual,
        "seconds": round(time.time() - stage.began, 1),
        "versions": versions(),
    }
    JSON.write_text(json.dumps(result, indent=2) + "\n")
    return result


def versions() -> dict[str, str]:
    """Versions of every component."""
    said = subprocess.run(
        [str(binaries.path("haproxy")), "-v"], capture_output=True, text=True
    ).stdout
    return {
        "sluice": __version__,
        "kubernetes": KUBERNETES_VERSION,
        "etcd": ETCD_VERSION,
        "haproxy": said.split()[2] if len(said.split()) > 2 else "",
        "python": platform.python_version(),
    }


def summary(stage: Stage, told: Told, result: dict[str, Any], *, keep: bool) -> list[str]:
    """Prints what happened and returns the promises that did not hold."""
    stage.say("What happened")
    for name, verdict in told.verdicts.items():
        print(f"  {name:10} {verdict['verdict']:7} {verdict['requests']:>7,} user requests")
        print(f"  {'':10} {verdict['reason'][:220]}")
    requests, rollback = result["requests"], told.rollback
    print(f"\n  {requests['total']:,} requests: {requests['failed_by_routing']} failed by routing, "
          f"{requests['failed_by_model']} by a model before it was taken back")  # fmt: skip
    print(f"  v4: taken back {rollback['detect_seconds']} s after its "
          f"{'20th' if rollback['failures'] >= 20 else 'first'} failure, "
          f"weight 0 seen {rollback['zero_seconds']} s later")  # fmt: skip
    print(f"  v2-slow: taken back inside its watch, {told.watch_rollback['pods_started']} pods "
          "started for it")  # fmt: skip
    plain = told.counterfactual
    print(f"  the same v4 by a plain rolling update: {plain['failed_by_model']} of "
          f"{plain['requests']:,} requests failed, {plain['note']}")  # fmt: skip
    print(f"\n  {HTML.relative_to(ROOT)} shows it, {JSON.relative_to(ROOT)} says it to programs.")
    if keep:
        row = (ROOT / "build" / "demo" / "rows.jsonl").open().readline().strip()
        address = f"127.0.0.1:{stage.cluster.expose(NAMESPACE, NAME, 80).port}"
        print(f"  The cluster stays: export KUBECONFIG={stage.cluster.kubeconfig}")
        print(f"  docs: http://{address}/docs")
        print(f"  curl -s http://{address}/predict -H 'Content-Type: application/json' -d '{row}'")
        print("  end it: sluice local down --purge --name demo --state build/demo/cluster")
    else:
        print("  KEEP=1 make demo leaves it running, with a curl line and the /docs address.")
    broken = promises(told, result)
    for line in broken:
        print(f"  NOT KEPT: {line}")
    return broken


def promises(told: Told, result: dict[str, Any]) -> list[str]:
    """What the demo must show, as far as it did not."""
    verdicts = told.verdicts
    checks = {
        "v4 is taken back within 20 s": told.rollback["detect_seconds"] <= 20,
        "weight 0 is seen within 5 s": told.rollback["zero_seconds"] <= 5,
        "no request fails by routing": result["requests"]["failed_by_routing"] == 0,
        "v3 gets no user request": verdicts["v3"]["requests"] == 0,
        "v4 again gets no user request": verdicts["v4-again"]["requests"] == 0,
        "v2 is promoted": verdicts["v2"]["verdict"] == "Passed",
        "the watch rollback starts no pod": told.watch_rollback["pods_started"] == 0,
    }
    return [text for text, kept in checks.items() if not kept]


def _sum(causes: dict[str, int], *starts: str) -> int:
    return sum(n for cause, n in causes.items() if cause.startswith(starts))


# The page


def write_html(stage: Stage, told: Told, result: dict[str, Any]) -> Path:
    """One self-contained page: the split, each check's effect and evidence, the verdicts."""
    frames = stage.camera.frames if stage.camera else []
    if not frames:
        return HTML
    names = {digest: name for name, digest in reversed(list(told.digests.items()))}
    span = (frames[0]["at"], max(frames[-1]["at"], frames[0]["at"] + 1))
    body = [
        "<h1>A good rollout and seven bad ones</h1>",
        f"<p>{result['requests']['total']:,} requests, "
        f"{result['requests']['failed_by_routing']} failed by routing, "
        f"{result['requests']['failed_by_model']} by a model before it was taken back.</p>",
        "<h2>Who got the traffic</h2>",
        _split(frames, names, span, told),
        "<h2>Effect of each check: candidate against stable, with its bounds</h2>",
        *(_effect(frames, check, span) for check in _checks(frames)),
        "<h2>Evidence against the candidate</h2>",
        _evidence(frames, span),
        "<h2>Verdicts</h2>",
        _table(told),
        f"<p class=small>{html.escape(json.dumps(result['versions']))}</p>",
    ]
    HTML.write_text(_PAGE.replace("BODY", "\n".join(body)))
    return HTML


def _x(at: float, span: tuple[float, float]) -> float:
    return round((at - span[0]) / (span[1] - span[0]) * WIDTH, 1)


def _split(
    frames: list[dict[str, Any]], names: dict[str, str], span: tuple[float, float], told: Told
) -> str:
    """Stacked shares over time."""
    order = list(dict.fromkeys(told.digests))
    out = []
    for before, after in itertools.pairwise(frames):
        x, width = _x(before["at"], span), _x(after["at"], span) - _x(before["at"], span) + 0.2
        y = 0.0
        for role in ("stable", "candidate", "previous"):
            found = before["status"].get(role)
            share = (found or {}).get("weight", {}).get("observed") or 0
            if not found or not share:
                continue
            name = names.get(found["digest"], "?")
            colour = COLOURS[order.index(name) % len(COLOURS)] if name in order else "#999"
            tall = share / 100 * HEIGHT
            out.append(
                f'<rect x="{x}" y="{y:.1f}" width="{width:.1f}" height="{tall:.1f}" '
                f'fill="{colour}"><title>{name} {share} %</title></rect>'
            )
            y += tall
    marks = "".join(
        f'<line x1="{_x(at, span)}" x2="{_x(at, span)}" y1="0" y2="{HEIGHT}" class="mark">'
        f"<title>{html.escape(text)}</title></line>"
        for at, text in told.chapters
        if at >= span[0]
    )
    legend = " ".join(
        f'<span style="color:{COLOURS[i % len(COLOURS)]}">&#9632; {name}</span>'
        for i, name in enumerate(order)
    )
    return _svg("".join(out) + marks, span) + f"<p>{legend}</p>"


def _checks(frames: list[dict[str, Any]]) -> list[str]:
    found = (c["name"] for f in frames for c in f["status"].get("checks") or [])
    return list(dict.fromkeys(found))


def _rows(frames: list[dict[str, Any]], name: str) -> list[tuple[float, dict[str, Any]]]:
    return [
        (f["at"], c)
        for f in frames
        for c in f["status"].get("checks") or []
        if c["name"] == name and c.get("effect") is not None
    ]


def _effect(frames: list[dict[str, Any]], name: str, span: tuple[float, float]) -> str:
    """Effect with its bounds on a clipped scale; the margin as a dashed line."""
    rows = _rows(frames, name)
    if not rows:
        return ""
    margin = rows[-1][1].get("margin") or 1.0
    top = max(2.0, 2 * margin)

    def y(value: float | None, otherwise: float) -> float:
        v = otherwise if value is None else min(max(value, 0.0), top)
        return round(HEIGHT - v / top * HEIGHT, 1)

    dots = "".join(
        f'<line x1="{_x(at, span)}" x2="{_x(at, span)}" y1="{y(c.get("low"), 0)}" '
        f'y2="{y(c.get("high"), top)}" class="band"/>'
        f'<circle cx="{_x(at, span)}" cy="{y(c["effect"], 0)}" r="1.6"/>'
        for at, c in rows
    )
    line = f'<line x1="0" x2="{WIDTH}" y1="{y(margin, 0)}" y2="{y(margin, 0)}" class="limit"/>'
    return f"<h3>{html.escape(name)}: tolerated {margin:g}</h3>" + _svg(dots + line, span)


def _evidence(frames: list[dict[str, Any]], span: tuple[float, float]) -> str:
    """log10 of the evidence per check."""
    out = []
    for i, name in enumerate(_checks(frames)):
        points = [
            (_x(f["at"], span), min(max(c.get("log10Evidence") or 0.0, -2.0), 6.0))
            for f in frames
            for c in f["status"].get("checks") or []
            if c["name"] == name
        ]
        out += [
            f'<circle cx="{x}" cy="{round(HEIGHT - (v + 2) / 8 * HEIGHT, 1)}" r="1.6" '
            f'fill="{COLOURS[i]}"><title>{html.escape(name)}: 10^{v:.1f}</title></circle>'
            for x, v in points
        ]
    legend = " ".join(
        f'<span style="color:{COLOURS[i]}">&#9679; {html.escape(n)}</span>'
        for i, n in enumerate(_checks(frames))
    )
    return _svg("".join(out), span) + f"<p>{legend} (from 0.01 to 1,000,000)</p>"


def _table(told: Told) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(n)}</td><td>{html.escape(v['verdict'])}</td>"
        f"<td class=n>{v['requests']:,}</td><td>{html.escape(v['reason'])}</td></tr>"
        for n, v in told.verdicts.items()
    )
    return f"<table><tr><th>revision<th>verdict<th>requests<th>why</tr>{rows}</table>"


def _svg(inner: str, span: tuple[float, float]) -> str:
    ticks = "".join(
        f'<text x="{_x(span[0] + s, span)}" y="{HEIGHT + 14}">{s} s</text>'
        for s in range(0, int(span[1] - span[0]) - 10, 60)
    )
    return f'<svg viewBox="0 -4 {WIDTH} {HEIGHT + 22}">{inner}{ticks}</svg>'


_PAGE = """<!doctype html><meta charset=utf-8><title>Sluice demo</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:1040px;margin:2em auto;padding:0 1em;color:#222}
svg{width:100%;background:#f6f6f3;border-radius:4px}h3{margin-bottom:.2em;font-size:1em}
text{font-size:10px;fill:#666}.mark{stroke:#222;stroke-dasharray:2 3}.band{stroke:#3b7dd855}
.limit{stroke:#b0413e;stroke-dasharray:4 3}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.3em .6em;border-bottom:1px solid #ddd;vertical-align:top}
.n{text-align:right}.small{color:#777;font-size:12px}
</style>BODY"""
