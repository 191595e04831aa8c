# SPDX-License-Identifier: Apache-2.0
"""The `lightwam` command: one verb per module, imported only when it runs."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from dataclasses import dataclass

from lightwam.cli.stop import Stopped, say_last, stopped_by_signals
from lightwam.errors import LightWAMError, escaped


@dataclass(frozen=True)
class Verb:
    """A subcommand: `module` holds the argument dataclass `arguments` and `main(arguments) -> int`, the exit status."""

    help: str
    module: str
    arguments: str


VERBS: dict[str, Verb] = {
    "demo": Verb("run the bundled policy in a simulator and write a video", "lightwam.cli.demo", "DemoArgs"),
    "eval": Verb("measure a policy's success in a simulator", "lightwam.cli.eval", "EvalArgs"),
    "bench": Verb("measure the latency of an engine file", "lightwam.cli.bench", "BenchArgs"),
    "inspect": Verb("show what an engine file holds", "lightwam.cli.inspect", "InspectArgs"),
    "record": Verb("record demonstrations with the scripted expert", "lightwam.cli.record", "RecordArgs"),
    "train vae": Verb("train the video autoencoder on recorded frames", "lightwam.cli.train", "VAETrainArgs"),
    "train policy": Verb("train the world action model", "lightwam.cli.train", "PolicyTrainArgs"),
    "train blind": Verb("train a baseline that sees the state alone", "lightwam.cli.train", "BlindTrainArgs"),
    "train replay": Verb("record a demonstration as an open-loop baseline", "lightwam.cli.train_replay", "ReplayArgs"),
    "convert": Verb("turn released checkpoints into a checkpoint folder", "lightwam.cli.convert", "ConvertArgs"),
    "export": Verb("fold a checkpoint into one engine file", "lightwam.cli.export", "ExportArgs"),
    "quantize": Verb("compute an engine's large linears in eight bits", "lightwam.cli.quantize", "QuantizeArgs"),
    "compile": Verb("add machine code for GPUs to an engine file", "lightwam.cli.compile", "CompileArgs"),
    "tune": Verb("find the fastest tactics of a compiled engine on this GPU", "lightwam.cli.tune", "TuneArgs"),
    "onnx": Verb("write an engine file as ONNX, for other runtimes", "lightwam.cli.onnx", "OnnxArgs"),
}

_EXTRAS: dict[str, tuple[str, ...]] = {
    "torch": ("train", "export"),
    "safetensors": ("train", "export"),
    "tensorboard": ("train",),
    "pyarrow": ("train", "libero"),
    "av": ("train", "libero"),
    "matplotlib": ("train", "libero"),
    "libero": ("libero",),
    "onnx": ("onnx",),
    "triton": ("gpu",),
    "transformers": ("text",),
    "sentencepiece": ("text",),
    "ftfy": ("text",),
}
"""Module -> the extras of pyproject.toml that install it; `rich` and `tyro`, which nearly all have, are not here."""


def missing_module(name: str) -> str:
    """What is not installed, and the pip command that installs it."""
    top = name.partition(".")[0]
    extras = [f"'lightwam[{extra}]'" for extra in _EXTRAS.get(top, ())]
    wanted = " or ".join(extras) or ("rich tyro" if top in ("rich", "tyro") else top)
    return f"the module '{name}' is not installed: pip install {wanted}"


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
        ]
    )


def find_verb(words: list[str]) -> tuple[str, list[str]] | None:
    """Split `words` into the longest verb they begin with and the rest; None when they begin with no verb."""
    for length in (2, 1):
        name = " ".join(words[:length])
        if len(words) >= length and name in VERBS:
            return name, words[length:]
    return None


def run_verb(name: str, options: list[str]) -> int:
    """Parse `options` into the verb's argument dataclass and call its function; returns the exit status."""
    import tyro

    verb = VERBS[name]
    module = importlib.import_module(verb.module)
    flat = (tyro.conf.OmitArgPrefixes,)  # groups of options show in the help, not in the options' names
    arguments = tyro.cli(getattr(module, verb.arguments), prog=f"lightwam {name}", args=options, config=flat)
    return int(module.main(arguments))


def print_faults(error: LightWAMError) -> None:
    """Every weight of a checkpoint that does not fit as one table, before the line that sums them up."""
    faults = getattr(error, "faults", ())
    if not faults:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{len(faults)} faults")
    for heading in ("fault", "weight", ""):
        table.add_column(heading, overflow="fold")
    for fault in faults:
        table.add_row(fault.kind, Text(escaped(fault.name)), Text(escaped(fault.detail)))  # names are no markup
    Console(stderr=True).print(table)


def main(argv: list[str] | None = None) -> int:
    """Entry point. Exit status: 0 done, 1 the verb's own 'no', 2 wrong use or a lightwam error (one line on stderr),
    128 + n after signal n (SIGINT, SIGTERM or SIGHUP)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"lightwam {version('lightwam')}")
        return 0
    found = find_verb(words)
    if found is None:
        print(f"lightwam: unknown verb '{words[0]}'; 'lightwam --help' lists them", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        with stopped_by_signals(program=argv is None):
            return run_verb(*found)
    except Stopped as stop:
        say_last(f"lightwam {found[0]}: interrupted by {stop.signal.name}")
        return 128 + stop.signal
    except LightWAMError as error:
        print_faults(error)
        print(f"lightwam {found[0]}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"lightwam {found[0]}: {missing_module(error.name or str(error))}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"lightwam {found[0]}: out of memory ({error}): give it less at once", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe had enough (`lightwam inspect FILE | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # an output folder that cannot be written, a full disk
        place = error.filename2 or error.filename or "a file"
        print(
            f"lightwam {found[0]}: {type(error).__name__}: {place}: {error.strerror or error}; "
            "give a path that can be written and has room",
            file=sys.stderr,
        )
        return 2
