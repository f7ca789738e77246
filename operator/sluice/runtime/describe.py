"""``/docs``: the model's own fields, and a form to try them.

Called by the server once, when the package is loaded; pure.  The page is one file: no script, font
or style comes from anywhere else, and its policy forbids it.  Everything that a package says is
escaped, because a package comes from outside.
"""

from __future__ import annotations

import html
from typing import Any

import msgspec

from sluice.package.load import Package
from sluice.package.manifest import Input, Label, Manifest
from sluice.runtime.served import Settings


def example_row(manifest: Manifest, package: Package) -> dict[str, Any]:
    """A row that the model answers: its first golden example, else something of each type."""
    golden = package.golden()
    if golden:
        return dict(golden[0].row)
    return {spec.name: _any_value(spec) for spec in manifest.inputs}


def _any_value(spec: Input) -> Any:
    if spec.type == "string":
        return spec.categories[0] if spec.categories else "text"
    if spec.type == "bool":
        return False
    value = spec.min if spec.min is not None else 0.0
    return int(value) if spec.type == "int" else value


# The page.


def page(manifest: Manifest, settings: Settings, package: Package) -> bytes:
    """The HTML of ``/docs``."""
    example = example_row(manifest, package)
    rows = "\n".join(
        _field_row(index, spec, example.get(spec.name))
        for index, spec in enumerate(manifest.inputs)
    )
    curl = html.escape(curl_line("$URL", example))
    facts = [
        ("Deployment", settings.deployment),
        ("Revision", settings.revision),
        ("Package", package.digest),
        ("Model", f"{manifest.task}, {manifest.model.format} (class {manifest.model.trust_class})"),
        ("Answer", _answer_text(manifest)),
    ]
    table = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts)
    return (
        _PAGE.replace("@TITLE@", html.escape(settings.deployment))
        .replace("@FACTS@", table)
        .replace("@CURL@", curl)
        .replace("@V1@", html.escape(f"/v1/models/{settings.deployment}:predict"))
        .replace("@V2@", html.escape(f"/v2/models/{settings.deployment}/infer"))
        .replace("@ROWS@", rows)
        .encode()
    )


def curl_line(url: str, row: dict[str, Any]) -> str:
    """A line for a shell that asks the model about ``row``."""
    body = msgspec.json.encode(row).decode().replace("'", "'\\''")
    return f"curl -s {url}/predict -H 'Content-Type: application/json' -d '{body}'"


def _answer_text(manifest: Manifest) -> str:
    output = manifest.output
    if output.labels is None:
        return "a number"
    labels = ", ".join(_text(label) for label in output.labels[:10])
    if manifest.binary:
        return f"{labels}; {_text(output.positive)} when its score is at least {output.threshold:g}"
    return labels


def _text(label: Label | None) -> str:
    return msgspec.json.encode(label).decode()


def _field_row(index: int, spec: Input, example: Any) -> str:
    name = html.escape(spec.name, quote=True)
    kind = {"float": "number", "int": "whole number", "bool": "true or false", "string": "text"}
    rules = [kind[spec.type]]
    rules.append("may be null" if spec.nullable else "never null")
    rules.append("required" if spec.required else "may be absent")
    seen = ""
    if spec.min is not None and spec.max is not None:
        seen = f"{spec.min:g} to {spec.max:g}"
    elif spec.categories:
        more = " …" if len(spec.categories) > 12 else ""
        seen = ", ".join(spec.categories[:12]) + more
    value = "" if example is None else msgspec.json.encode(example).decode()
    value = html.escape(str(example) if isinstance(example, str) else value, quote=True)
    return (
        f'<tr><td><label for="f{index}"><code>{name}</code></label></td>'
        f"<td>{html.escape(', '.join(rules))}</td><td>{html.escape(seen)}</td>"
        f'<td><input id="f{index}" data-name="{name}" data-type="{spec.type}" '
        f'value="{value}" autocomplete="off"></td></tr>'
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';
 connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'">
<title>@TITLE@ · Sluice</title>
<style>
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:.2rem}h2{margin-top:2rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}
dt{opacity:.7}dd{margin:0;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.25rem .6rem .25rem 0;border-bottom:1px solid #8884}
input{font:inherit;width:11rem;padding:.15rem .4rem}
button{font:inherit;padding:.4rem 1.2rem;margin-top:1rem}
pre{background:#8882;padding:.8rem;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
</style></head><body>
<h1>@TITLE@</h1>
<dl>@FACTS@</dl>
<h2>Try it</h2>
<p>An empty input is sent as <code>null</code>.</p>
<form id="form"><table>
<thead><tr><th>Field</th><th>Rule</th><th>In the reference data</th><th>Value</th></tr></thead>
<tbody>
@ROWS@
</tbody></table><button type="submit">Predict</button></form>
<pre id="answer" aria-live="polite">The answer appears here.</pre>
<h2>From a shell</h2>
<pre id="curl">@CURL@</pre>
<h2>All ways to ask</h2>
<ul>
<li><code>POST /predict</code>: one object, a list of objects, or an object of columns.</li>
<li><code>POST @V1@</code>: <code>{"instances": [...]}</code>.</li>
<li><code>POST @V2@</code>: Open Inference Protocol, JSON tensors.</li>
<li><a href="/openapi.json"><code>/openapi.json</code></a> describes them for tools.</li>
</ul>
<p>Fields that the model does not know are ignored and counted; a row without any known field is
refused. A 4xx names the field, what was expected and what came.</p>
<script>
const answer = document.getElementById("answer");
document.getElementById("curl").textContent =
  document.getElementById("curl").textContent.replace("$URL", location.origin);
function read(input) {
  const text = input.value.trim();
  if (text === "") return null;
  if (input.dataset.type === "string") return input.value;
  if (input.dataset.type === "bool") return {"true": true, "false": false}[text] ?? text;
  const number = Number(text);
  return Number.isNaN(number) ? text : number;
}
document.getElementById("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const row = {};
  for (const input of document.querySelectorAll("input[data-name]")) {
    row[input.dataset.name] = read(input);
  }
  answer.textContent = "…";
  try {
    const response = await fetch("/predict", {
      method: "POST",
      headers: {"Content-Type": "application/json"},
      body: JSON.stringify(row),
    });
    const body = await response.json();
    answer.textContent = response.status + "\\n" + JSON.stringify(body, null, 2);
  } catch (error) {
    answer.textContent = "No answer: " + error;
  }
});
</script></body></html>
"""
