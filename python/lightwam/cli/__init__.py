# SPDX-License-Identifier: Apache-2.0
"""The `lightwam` command: one verb per module, imported only when it runs."""

from __future__ import annotations

import importlib
import logging
import sys
from dataclasses import dataclass

from lightwam.cli.faults import unexpected
from lightwam.cli.stop import Stopped, stopped_by_signals
from lightwam.errors import LightWAMError
from lightwam.terminal import safe_output, table


@dataclass(frozen=True)
class Verb:
    """A subcommand: `module` holds the argument dataclass `arguments` and `main(arguments) -> int`, the exit status."""

    help: str
    module: str
    arguments: str


VERBS: dict[str, Verb] = {
    "demo": Verb("run the bundled policy in a simulator and write a video", "lightwam.cli.demo", "DemoArgs"),
    "eval": Verb("measure a policy's success in a simulator", "lightwam.cli.eval", "EvalArgs"),
    "eval merge": Verb("join reports of parts of one evaluation", "lightwam.cli.eval_merge", "MergeArgs"),
    "eval report": Verb("show reports of evaluations as an HTML page", "lightwam.cli.eval_report", "ReportArgs"),
    "reproduce": Verb("make a result again, from recordings to a report", "lightwam.cli.reproduce", "ReproduceArgs"),
    "bench": Verb("measure the latency of an engine file", "lightwam.cli.bench", "BenchArgs"),
    "inspect": Verb("show what an engine file holds", "lightwam.cli.inspect", "InspectArgs"),
    "record": Verb("record demonstrations with the scripted expert", "lightwam.cli.record", "RecordArgs"),
    "data check": Verb("say what is wrong with a data set before training", "lightwam.cli.data", "CheckArgs"),
    "data show": Verb("draw a data set's frames and numbers", "lightwam.cli.data_show", "ShowArgs"),
    "data stats": Verb("measure statistics of states and actions", "lightwam.cli.data_stats", "StatsArgs"),
    "data precompute": Verb("compute latents and text rows once", "lightwam.cli.data_precompute", "PrecomputeArgs"),
    "robot from-dataset": Verb("propose a robot file from a data set", "lightwam.cli.robot", "FromDatasetArgs"),
    "viz attention": Verb("draw where a policy looks in recordings", "lightwam.cli.viz_attention", "AttentionArgs"),
    "viz future": Verb("draw what a policy imagines beside what happened", "lightwam.cli.viz_future", "FutureArgs"),
    "viz actions": Verb("draw predicted beside recorded actions", "lightwam.cli.viz_actions", "ActionsArgs"),
    "train vae": Verb("train the video autoencoder on recorded frames", "lightwam.cli.train", "VAETrainArgs"),
    "train policy": Verb("train the world action model", "lightwam.cli.train", "PolicyTrainArgs"),
    "train blind": Verb("train a baseline that sees no image", "lightwam.cli.train", "BlindTrainArgs"),
    "train plan": Verb("predict a training's memory on each GPU", "lightwam.cli.train_plan", "PlanArgs"),
    "train replay": Verb("record demonstrations as an open-loop baseline", "lightwam.cli.train_replay", "ReplayArgs"),
    "convert": Verb("turn released checkpoints into a checkpoint folder", "lightwam.cli.convert", "ConvertArgs"),
    "export": Verb("fold a checkpoint into one engine file", "lightwam.cli.export", "ExportArgs"),
    "quantize": Verb("compute an engine's large linears in eight bits", "lightwam.cli.quantize", "QuantizeArgs"),
    "compile": Verb("add machine code for GPUs to an engine file", "lightwam.cli.compile", "CompileArgs"),
    "tune": Verb("find the fastest tactics of a compiled engine on this GPU", "lightwam.cli.tune", "TuneArgs"),
    "onnx": Verb("write an engine file as ONNX, for other runtimes", "lightwam.cli.onnx", "OnnxArgs"),
}

EXTRAS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("demo", "eval", "eval merge", "eval report", "record", "train replay"), ("libero",)),
    **dict.fromkeys(("train vae", "train policy", "train blind", "train plan", "quantize"), ("train",)),
    **dict.fromkeys(("data check", "data show", "data stats", "data precompute", "robot from-dataset"), ("train",)),
    **dict.fromkeys(("viz attention", "viz future", "viz actions"), ("train",)),
    **dict.fromkeys(("convert", "export"), ("export",)),
    "reproduce": ("train", "libero"),
    "compile": ("export", "gpu"),
    "onnx": ("onnx",),
}
"""Verb -> the extras of pyproject.toml that it requires; the others run with the base installation."""

PRINTING = ("bench", "data check", "inspect", "train plan")
"""The verbs whose work is what they print, unless they have an --out."""

EXIT_STATUSES = (
    "exit status: 0 done; 1 the verb's own answer is no (quantize: a gate is not met, nothing is written; data check:",
    "             training would be wrong);",
    "             2 an error, in one line; 128 + n ended by signal n (130: Ctrl-C).",
    "             What could not be printed does not change the status of files that were written.",
)


def usage() -> str:
    """The text of `lightwam --help`."""
    width = max(len(name) for name in VERBS)
    rows = [f"  {name.ljust(width)}  {verb.help}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: lightwam VERB [OPTIONS]     (lightwam VERB --help lists a verb's options)",
            "",
            "Light-WAM policies: train in PyTorch, fold once into one engine file, run that file without PyTorch.",
            "",
            *rows,
            "",
            *EXIT_STATUSES,
        ]
    )


def installed_version() -> str:
    """The version of the installed package; of sources that are not installed, that they are."""
    from importlib import metadata

    try:
        return metadata.version("lightwam")
    except metadata.PackageNotFoundError:
        return "(sources that are not installed)"


def find_verb(words: list[str]) -> tuple[str, list[str]] | None:
    """Split `words` into the longest verb they begin with and the rest; None when they begin with no verb."""
    for length in (2, 1):
        name = " ".join(words[:length])
        if len(words) >= length and name in VERBS:
            return name, words[length:]
    return None


def run_verb(name: str, options: list[str]) -> int:
    """Parse `options` into the verb's argument dataclass and call its function; returns the exit status."""
    from lightwam.cli.parse import parse

    verb = VERBS[name]
    module = importlib.import_module(verb.module)
    arguments = parse(getattr(module, verb.arguments), f"lightwam {name}", options)
    with safe_output() as output:
        status = int(module.main(arguments))
    if status == 0 and output.lost and name in PRINTING and getattr(arguments, "out", None) is None:
        return 2  # nothing but the text was made, and it did not arrive
    return status


def print_faults(error: LightWAMError) -> None:
    """Every weight of a checkpoint that does not fit as one table, before the line that sums them up."""
    faults = getattr(error, "faults", ())
    if faults:
        rows = [(fault.kind, fault.name, fault.detail) for fault in faults]
        print(table(("fault", "weight", ""), rows, f"{len(faults)} faults"), file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status, see `EXIT_STATUSES`. Errors are one line on standard error."""
    words = list(sys.argv[1:] if argv is None else argv)
    with safe_output() as output:
        if not words or words[0] in ("-h", "--help", "help"):
            print(usage())
            return 0
        if words[0] == "--version":
            print(f"lightwam {installed_version()}")
            return 0
        found = find_verb(words)
        if found is None:
            print(f"lightwam: unknown verb '{words[0]}'; 'lightwam --help' lists them", file=sys.stderr)
            return 2
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        name, options = found
        try:
            with stopped_by_signals(program=argv is None):
                return run_verb(name, options)
        except Stopped as stop:
            status, line = 128 + stop.signal, f"interrupted by {stop.signal.name}"
        except LightWAMError as error:
            print_faults(error)
            status, line = 2, f"{type(error).__name__}: {error}"
        except Exception as error:
            if sys.flags.dev_mode:
                raise
            status, line = 2, unexpected(error, EXTRAS.get(name, ()))
        output.flush()
        print(f"lightwam {name}: {line}", file=sys.stderr)
        return status
