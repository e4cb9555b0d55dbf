"""Experiments: from their creation to their results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf import json_format

from penstock.cli.exits import CommandError
from penstock.cli.session import Session, as_dict
from penstock.experiments.v1 import experiment_pb2, result_pb2, result_service_pb2

experiments = typer.Typer(no_args_is_help=True, help="Controlled comparisons of variants on live traffic.")

Name = Annotated[str, typer.Argument(help="Id of the experiment.", show_default=False)]
_UNITS = ("user", "conversation", "request")


@experiments.command("list")
def list_(ctx: typer.Context) -> None:
    """Show all experiments, newest first."""
    session: Session = ctx.obj
    found = list(session.client.list_experiments(page_size=250))
    if session.as_json:
        session.emit({"experiments": [as_dict(one) for one in found]})
        return
    session.table(
        ["EXPERIMENT", "STATE", "UNIT", "VARIANTS", "METRICS"],
        [
            [
                one.experiment,
                _state(one.state),
                experiment_pb2.Unit.Name(one.unit).removeprefix("UNIT_").lower(),
                " ".join(f"{variant.variant}:{variant.weight:g}" for variant in one.variants),
                " ".join(metric.metric for metric in one.metrics),
            ]
            for one in found
        ],
    )


@experiments.command()
def create(
    ctx: typer.Context,
    *,
    experiment: Annotated[str, typer.Argument(help="Its id; not with --file.", show_default=False)] = "",
    variant: Annotated[
        list[str] | None, typer.Option(help="NAME=WEIGHT of one variant; repeated at least once.", show_default=False)
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="VARIANT.FIELD=VALUE, what a variant changes: model, prompt, top_k, temperature, top_p or max_tokens.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="NAME, or NAME:decrease where less is better; may be repeated.", show_default=False)
    ] = None,
    unit: Annotated[str, typer.Option(help="What is randomised: user, conversation or request.")] = "user",
    hypothesis: Annotated[str, typer.Option(help="What one hopes to learn.")] = "",
    file: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file with the body of POST /v1/experiments, instead of all this.", exists=True, dir_okay=False
        ),
    ] = None,
) -> None:
    """Create an experiment; it assigns nothing before it is started."""
    session: Session = ctx.obj
    if file is not None:
        if experiment or variant or setting or metric or hypothesis:
            raise CommandError("--file says it all; give nothing beside it")
        fields = _from_file(file)
    else:
        if not experiment:
            raise CommandError("the experiment has no id; give one, or --file")
        if unit not in _UNITS:
            raise CommandError(f"--unit is {unit!r}; it must be one of {', '.join(_UNITS)}")
        fields = {
            "experiment": experiment,
            "variants": _variants(variant or (), setting or ()),
            "metrics": [_metric(given) for given in metric or ()],
            "unit": unit,
            "hypothesis": hypothesis,
        }
    try:
        made = session.client.create_experiment(**fields)
    except (TypeError, ValueError) as error:
        raise CommandError(f"this is no experiment that this client can create: {error}") from error
    _show(session, made, "created")


@experiments.command()
def start(ctx: typer.Context, experiment: Name) -> None:
    """Let an experiment assign."""
    session: Session = ctx.obj
    _show(session, session.client.start_experiment(experiment), "started")


@experiments.command()
def stop(ctx: typer.Context, experiment: Name) -> None:
    """End an experiment's assigning, for good."""
    session: Session = ctx.obj
    _show(session, session.client.stop_experiment(experiment), "stopped")


@experiments.command()
def results(ctx: typer.Context, experiment: Name) -> None:
    """Show what an experiment has shown so far."""
    session: Session = ctx.obj
    found = session.client.results(experiment)
    if session.as_json:
        session.emit(as_dict(found))
        return
    session.say(f"{found.experiment} · {_state(found.state)}")
    session.table(["VARIANT", "#UNITS", "#REQUESTS", "METRIC", "#OUTCOMES", "#FROM UNITS", "#MEAN"], _counts(found))
    if found.comparisons:
        session.say(f"\nagainst {found.control}")
        session.table(
            ["VARIANT", "METRIC", "#DIFFERENCE", "INTERVAL", "#RELATIVE", "VERDICT"],
            [_against(one) for one in found.comparisons],
        )
    if found.sample_ratio.state == result_pb2.SAMPLE_RATIO_STATE_MISMATCH:
        session.say(
            f"\nThe units are not split as the weights say (p = {found.sample_ratio.p_value:.2g}). "
            "Find out why before you trust any of this."
        )
    if found.analysis_missing:
        session.say(f"\nThere is no analysis: {_why(found.analysis_missing)}.")


def _counts(found: result_service_pb2.GetResultsResponse) -> list[list[str]]:
    rows = []
    for variant in found.variants:
        head = [variant.variant, str(variant.exposed_units), str(variant.exposures)]
        for metric in variant.metrics:
            mean = f"{metric.mean:.4g}" if metric.HasField("mean") else "-"
            rows.append([*head, metric.metric, str(metric.outcomes), str(metric.units), mean])
            head = ["", "", ""]
        if not variant.metrics:
            rows.append([*head, "", "", "", ""])
    return rows


def _against(one: result_pb2.Comparison) -> list[str]:
    """A comparison, with the interval by which it is decided."""
    verdict = (
        result_pb2.Verdict.Name(one.verdict).removeprefix("VERDICT_").lower() if one.verdict else _why(one.verdict_missing)
    )
    if not one.HasField("effect"):
        return [one.variant, one.metric, "-", "-", "-", verdict]
    interval = one.effect.interval
    if one.HasField("look"):
        interval = one.look.interval
    elif one.decided_by == experiment_pb2.ANALYSIS_METHOD_ALWAYS_VALID and one.HasField("anytime_interval"):
        interval = one.anytime_interval
    relative = f"{one.effect.relative:+.1%}" if one.effect.HasField("relative") else "-"
    difference = f"{one.effect.difference:+.4g}"
    return [one.variant, one.metric, difference, f"{interval.lower:+.4g} to {interval.upper:+.4g}", relative, verdict]


def _why(missing: result_pb2.Uncomputable.ValueType) -> str:
    return result_pb2.Uncomputable.Name(missing).removeprefix("UNCOMPUTABLE_").lower().replace("_", " ")


def _show(session: Session, experiment: experiment_pb2.Experiment, done: str) -> None:
    if session.as_json:
        session.emit(as_dict(experiment))
    else:
        session.say(f"{done} {experiment.experiment}")


def _state(state: experiment_pb2.ExperimentState.ValueType) -> str:
    return experiment_pb2.ExperimentState.Name(state).removeprefix("EXPERIMENT_STATE_").lower()


def _from_file(file: Path) -> dict[str, Any]:
    """The fields of an experiment in JSON; those that cannot be given are left for the client to refuse."""
    try:
        message = json_format.Parse(file.read_bytes(), experiment_pb2.Experiment())
    except (json_format.ParseError, OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} is not the JSON of an experiment: {error}") from error
    return {field.name: value for field, value in message.ListFields()}


def _variants(given: Sequence[str], settings: Sequence[str]) -> list[dict[str, Any]]:
    variants: dict[str, dict[str, Any]] = {}
    for one in given:
        name, _, weight = one.partition("=")
        variants[name] = {"variant": name, "weight": _number("--variant", one, weight, float)}
    for one in settings:
        place, found, value = one.partition("=")
        name, _, field = place.partition(".")
        if not found or field not in _FIELDS:
            raise CommandError(f"--set is {one!r}; it must be VARIANT.FIELD=VALUE, the field one of {', '.join(_FIELDS)}")
        if name not in variants:
            raise CommandError(f"--set is {one!r}; there is no --variant {name}")
        kind = _FIELDS[field]
        variants[name][field] = value if kind is str else _number("--set", one, value, kind)
    return list(variants.values())


_FIELDS: dict[str, type] = {"model": str, "prompt": str, "top_k": int, "temperature": float, "top_p": float, "max_tokens": int}


def _number(option: str, given: str, value: str, kind: type) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise CommandError(f"{option} is {given!r}; what follows `=` must be a number") from None


def _metric(given: str) -> dict[str, str]:
    name, _, direction = given.partition(":")
    if direction not in {"", "increase", "decrease"}:
        raise CommandError(f"--metric is {given!r}; after `:` comes increase or decrease")
    return {"metric": name, "direction": direction or "increase"}
