"""The W&B workspace and report of a table's runs.

Saves both and prints their addresses; --dry-run prints them as JSON instead and asks no server.
Needs the extra `dashboards`. Runs carry their table as W&B's group, their method as its job type.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import wandb

from unlearn.inversion.invert import Weights
from unlearn.program import program
from unlearn.runs.tracking import PROJECT, RESULTS

try:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
except ImportError:
    wr = ws = None

ACCURACY = ("D_r", "D_e", "still_target_after")
ON_REQUEST = ("rmia_auc", "relearn_time", "probe_D_e")  # by `unlearn evaluate --only`
PRIVACY = ("asr_D_e", "asr_D_r", "mia_D_e_auc", "norm_D_e")
TO_ORACLE = ("oracle_agreement", "oracle_js", "tug_of_war")  # where an oracle has been trained
METRICS = (*ACCURACY, *PRIVACY, *TO_ORACLE, *ON_REQUEST)
LOSSES = {
    "training": ["loss"],
    "inversion": ["loss", *(weight.name for weight in fields(Weights))],
    "relearning": ["loss", "retain", "forget"],
}
SECONDS = ("training", "inversion", "filtration", "relearning", "evaluation", "total")
PICTURES = ("samples", "filtration", "knee", "overview")
ORACLE, OTHERS = "#d9730d", "#2f81d6"
SCENARIO = "config:scenario.value.name"


def bars(names: Sequence[str]) -> list[Any]:
    """One bar chart a metric: a bar a method, the mean and standard deviation of its runs."""
    method = wr.Metric("JobType")
    return [
        wr.BarPlot(
            title=name,
            metrics=[wr.Metric(name)],
            groupby=method,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )
        for name in names
    ]


def accuracies() -> Any:
    """D_r against D_e of every run, the oracle's points in another colour than the others'."""
    return wr.ScatterPlot(
        title="D_r against D_e, the oracle marked",
        x=wr.SummaryMetric("D_e"),
        y=wr.SummaryMetric("D_r"),
        z=wr.SummaryMetric("is_oracle"),
        gradient=[wr.GradientPoint(OTHERS, 0), wr.GradientPoint(ORACLE, 100)],
        legend_template="${jobType}: ${config:scenario.name}, ${config:shot}",
    )


def curves(stage: str, losses: Sequence[str]) -> list[Any]:
    """One chart a loss, over the stage's own steps."""
    return [
        wr.LinePlot(title=f"{stage}: {loss}", x=f"{stage}/step", y=[f"{stage}/{loss}"])
        for loss in losses
    ]


def sections() -> dict[str, list[Any]]:
    """The dashboard's panels by section."""
    every = wr.LinePlot(title="loss of every stage", x="Step", metric_regex="^[a-z_]+/loss$")
    grids = wr.MediaBrowser(
        title="samples while inverting", media_keys=["inversion/samples"], gallery_axis="step"
    )
    last = wr.MediaBrowser(
        title="pictures", media_keys=[f"pictures/{name}" for name in PICTURES], gallery_axis="run"
    )
    return {
        "Results": [accuracies(), *bars(METRICS), wr.WeavePanelSummaryTable(table_name=RESULTS)],
        **{f"Losses: {stage}": curves(stage, losses) for stage, losses in LOSSES.items()},
        "Losses: all methods": [every],
        "Sample grids": [grids, last],
        "Seconds": bars([f"seconds/{stage}" for stage in SECONDS]),
    }


def workspace(entity: str, project: str, group: str) -> ws.Workspace:
    """The live view of a group's runs, listed by scenario and method."""
    return ws.Workspace(
        entity=entity,
        project=project,
        name=group,
        sections=[
            ws.Section(name=name, panels=panels, is_open=True)
            for name, panels in sections().items()
        ],
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=ws.And(ws.Metric("Group") == group),
            groupby=[ws.Config("scenario.name"), ws.Metric("JobType")],
            pinned_columns=columns(),
        ),
    )


def report(entity: str, project: str, group: str) -> wr.Report:
    """The same sections to read and share; the list of runs is the table of results."""
    runs: dict[str, Any] = {"name": group, "filters": ws.And(ws.Metric("Group") == group)}
    table = wr.Runset(**runs, groupby=["config.scenario.name", "JobType"], pinned_columns=columns())
    blocks: list[Any] = [
        wr.P(
            f"Runs of {group}. Accuracies are shares in [0, 1]; bars: mean and standard deviation."
        ),
        wr.TableOfContents(),
    ]
    for name, panels in sections().items():
        runset = table if name == "Results" else wr.Runset(**runs)
        hide = name != "Results"
        blocks += [
            wr.H1(name),
            wr.PanelGrid(runsets=[runset], panels=panels, hide_run_sets=hide),
        ]
    return wr.Report(entity=entity, project=project, title=f"{project}: {group}", blocks=blocks)


def spec(view: ws.Workspace | wr.Report) -> dict[str, Any]:
    """What the server would be sent."""
    sent: dict[str, Any] = view._to_model().model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    return sent


def columns() -> list[str]:
    """What the list of runs shows."""
    return [SCENARIO, *(f"summary:{name}" for name in METRICS)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print or save.

    Returns:
        0; 2 without a key or wandb-workspaces; 1 if the server refuses.
    """
    parser = argparse.ArgumentParser(prog=program("dashboard"), description=__doc__)
    parser.add_argument("--entity", required=True, help="user or team on W&B")
    parser.add_argument("--project", default=PROJECT)
    parser.add_argument("--group", required=True, help="the runs' experiment, like table1")
    parser.add_argument("--dry-run", action="store_true", help="print JSON, ask no server")
    args = parser.parse_args(arguments)
    if ws is None:
        install = "pip install 'few-shot-unlearning[dashboards]'"
        print(f"error: wandb-workspaces is not installed: {install}", file=sys.stderr)
        return 2
    where = (args.entity, args.project, args.group)
    live, text = workspace(*where), report(*where)
    if args.dry_run:
        print(json.dumps({"workspace": spec(live), "report": spec(text)}, indent=1))
        return 0
    try:
        if not wandb.login(prompt=False, verify=False):
            print("error: no W&B key: wandb login, or --dry-run", file=sys.stderr)
            return 2
        for block in text.blocks:
            for runset in getattr(block, "runsets", []):
                # The library looks a named project up on the server, so only now.
                runset.entity, runset.project = args.entity, args.project
        print(live.save().url)
        print(text.save().url)
    except (wandb.Error, ValueError, OSError) as error:
        print(f"error: W&B: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0
