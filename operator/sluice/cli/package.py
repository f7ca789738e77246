"""``sluice package MODEL --examples ROWS``: from a model file to a model package.

Called by people and CI; calls ``sluice.package``.  What the file would import is listed first, and
a file that is code is loaded only with consent: typed at the prompt, or given for exactly these
bytes with --trust-file.  The consent is for this machine and leaves no trace in the package.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command("package")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--examples",
    required=True,
    type=click.Path(path_type=Path),
    help="Rows as the model takes them: parquet, CSV or JSON lines.",
)
@click.option("--label", metavar="COL", help="The column of --examples that holds the outcome.")
@click.option(
    "--holdout",
    type=click.Path(path_type=Path),
    help="Rows the model was not trained on, with the same columns: reference scores.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to write (default: MODEL-package)."
)
@click.option("--name", default="model", show_default=True, help="The model's name.")
@click.option("--threshold", type=float, help="Score from which the label is positive.")
@click.option("--positive", metavar="LABEL", help="The label the score is for (default: the last).")
@click.option("--nullable", metavar="COL", multiple=True, help="This column may be missing.")
@click.option(
    "--not-nullable", metavar="COL", multiple=True, help="This column may not be missing."
)
@click.option(
    "--trust-file",
    metavar="sha256:…",
    help="Load MODEL without asking if it is exactly this file (for CI).",
)
@click.option("--keep-original", is_flag=True, help="Keep MODEL beside its ONNX form.")
@click.option("--no-convert", is_flag=True, help="Do not try ONNX; serve MODEL itself.")
@click.option(
    "--code",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A Python file that the model needs; becomes part of the package.",
)
@click.option("--preprocess", metavar="MODULE:FUNCTION", help="Applied to rows before the model.")
@click.option("--no-golden", is_flag=True, help="Keep example rows out of the package.")
@click.option(
    "--wheels",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder with the model's libraries as wheels; they become part of a package that is code.",
)
@click.option(
    "--any-minor",
    is_flag=True,
    help="Other minor versions may load it when they pass the golden examples.",
)
def command(
    model: Path,
    examples: Path,
    label: str | None,
    holdout: Path | None,
    out: Path | None,
    name: str,
    threshold: float | None,
    positive: str | None,
    nullable: tuple[str, ...],
    not_nullable: tuple[str, ...],
    trust_file: str | None,
    keep_original: bool,
    no_convert: bool,
    code: tuple[Path, ...],
    preprocess: str | None,
    no_golden: bool,
    wheels: Path | None,
    any_minor: bool,
) -> None:
    """Turn MODEL into a model package.

    MODEL is ONNX, XGBoost (.ubj, .json), LightGBM (.txt), CatBoost (.cbm), skops, joblib or
    pickle; what it is follows from its content.

    \b
    sluice package model.ubj --examples rows.parquet --label late --out flights
    sluice package model.joblib --examples rows.parquet --trust-file sha256:…
    sluice package model.joblib --examples rows.parquet --no-convert --wheels wheelhouse
    """
    from sluice.package.from_file import Options, package_file

    saved = package_file(
        Options(
            model=model,
            examples=examples,
            label=label,
            holdout=holdout,
            out=out or model.with_name(f"{model.stem}-package"),
            name=name,
            threshold=threshold,
            positive=positive,
            nullable={**dict.fromkeys(nullable, True), **dict.fromkeys(not_nullable, False)},
            trust_file=trust_file,
            keep_original=keep_original,
            convert=not no_convert,
            code=code,
            preprocess=preprocess,
            golden=0 if no_golden else 50,
            wheels=wheels,
            any_minor=any_minor,
        ),
        say=lambda line: click.echo(line, err=True),
        ask=_ask if sys.stdin.isatty() else None,
    )
    click.echo(f"{saved.digest}  {saved.path}")


def _ask(question: str) -> bool:
    return click.confirm(question, default=False, err=True)
