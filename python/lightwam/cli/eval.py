# SPDX-License-Identifier: Apache-2.0
"""`lightwam eval`: success of a policy in a simulator under a named protocol, as a JSON report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightwam.errors import ConfigError
from lightwam.extras import missing_module
from lightwam.progress import counting_bar
from lightwam.runtime.policy import DeviceName
from lightwam.sim.crew import Alone, Assignment, Crew, PolicyFile, Processes
from lightwam.sim.env import EvaluationProtocol, Simulator
from lightwam.sim.evaluate import evaluate
from lightwam.sim.fidelity import check_simulator, refuse_unfaithful
from lightwam.sim.films import Films
from lightwam.sim.page.write import prepare_page, told_films, write_page
from lightwam.sim.perturb import perturbations
from lightwam.sim.plan import TrialPlan, plan_trials
from lightwam.sim.policies import PolicyLike
from lightwam.sim.registry import load_simulator
from lightwam.sim.reports import content_hash, prepare_output, read_report, summary_line
from lightwam.sim.tables import as_text, prepare_markdown, write_markdown
from lightwam.terminal import table


@dataclass(frozen=True)
class ProtocolArgs:
    """How trials run: a named protocol, and single values of it changed.

    A changed value stands in the protocol's name in the report."""

    protocol: str | None = None
    """Named protocol (default: the simulator's first; in LIBERO paper, openpi, lerobot or shifted)."""
    trials: int | None = None
    """Trials a task (default: the protocol's)."""
    states: str | None = None
    """official, or shifted: objects moved further (LIBERO: target +-4 cm, place +-3 cm, others +-1 cm). Default: the
    protocol's."""
    settle_steps: int | None = None
    """Control steps that stand still before the policy starts (default: the protocol's)."""
    max_steps: int | None = None
    """Step limit of every suite (default: the protocol's, suite by suite)."""
    replan_steps: int | None = None
    """Actions executed of a chunk at most (default: the protocol's)."""
    seed: int | None = None
    """Seed of trial 0; trial i has this plus i (default: the protocol's)."""

    def chosen(self, simulator: Simulator) -> EvaluationProtocol:
        """The resolved protocol. Raises ConfigError."""
        return simulator.protocol(self.protocol).changed(
            states=self.states, settle_steps=self.settle_steps, max_steps=self.max_steps,
            replan_steps=self.replan_steps, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class EvalArgs:
    """Measure a policy's success in a simulator, and write a report.

    A stopped evaluation leaves a report of what is done; the same command goes on from there.
    """

    policy: Path | None = None
    """Engine file (.lwam), or a baseline (.npz from `lightwam train blind` or `train replay`). Required but for
    --list-suites and --check-simulator."""
    sim: str = "libero"
    """Simulator, or the class of your own as module:Class."""
    suite: tuple[str, ...] = ()
    """Suites of tasks (default: the simulator's; libero_object in LIBERO)."""
    tasks: tuple[str, ...] | None = None
    """Tasks of each suite: numbers, 0-9, 0,3, or all (default: the simulator's; 0 in LIBERO)."""
    first_trial: int = 0
    trial: ProtocolArgs = ProtocolArgs()
    perturb: tuple[str, ...] = ()
    """Perturbations, a row of the report each: AXIS:LEVEL (light, colour, noise, blur, camera, joints, layout, delay,
    instruction; 1 to 3), several at once light:2+delay:1, none, all (none and every axis at every level), all:2."""
    list_suites: bool = False
    """List the suites, and why some cannot run; nothing else."""
    check_simulator: bool = False
    """Print whether the simulator is the faithful one, by versions and by what it does, and nothing else; the exit
    status is 1 where it is not."""
    any_simulator: bool = False
    """Run with other versions of the simulator's packages than the faithful ones (LIBERO: MuJoCo 3.3.0), too."""
    out: Path = Path("outputs/eval/report.json")
    markdown: Path | None = None
    """File for the table in the published form, as Markdown."""
    html: Path | None = None
    """HTML file that shows the report, and those beside it: tables, figures, films, filters."""
    films_mb: int = 32
    """Limit of the films in the HTML file, in megabytes; what is left out is told there. 0: no film."""
    videos: Path | None = None
    """Folder for one mp4 a trial, and contact sheets of the failures."""
    videos_of: str = "all"
    """all trials, or failures."""
    beside: tuple[Path, ...] = ()
    """Earlier reports (of baselines, say) to show and keep beside this one."""
    processes: int = 1
    """Worker processes that share the trials, one thread each; with --ray the number of workers."""
    ray: str | None = None
    """Address of a Ray cluster whose machines share the trials (extra [ray]); auto finds a running one."""
    device: DeviceName = "cpu"
    """cpu; cuda: an engine made by `lightwam compile`, on a GPU or not at all; auto: a GPU if it can, else cpu."""
    threads: int | None = None
    """CPU threads; one per CPU when absent, and one in each of several --processes."""
    precision: str = "auto"
    """auto is the engine's own; f32, bf16, f16, int8 insist on it."""


def print_reports(reports: list[dict[str, Any]]) -> None:
    """Success and chunk latency of several reports as a table."""
    rows = []
    for report in reports:
        about = (str(report.get("policy", "-")), str(report.get("states")), str(report.get("protocol")))
        latency = report.get("latency", {})
        times = (str(latency.get(name, "-")) for name in ("p50_ms", "p95_ms", "p99_ms"))
        success = f"{report['successes']} of {report['trials']}" + (", unfinished" if "unfinished" in report else "")
        rows.append((*about, success, *times))
    print(table(("policy", "states", "protocol", "success", "p50 ms", "p95 ms", "p99 ms"), rows))


def tell(report: dict[str, Any], beside: list[dict[str, Any]], out: Path, markdown: Path | None) -> None:
    """Print a written report's tables, and write that in the published form where it is wanted."""
    shown = [summary_line(report), *beside]
    print(as_text(shown))
    print_reports(shown)
    if markdown is not None:
        write_markdown(markdown, [report, *beside])
        print(f"table: {markdown}")
    print(f"report: {out}")


def tell_page(path: Path, reports: dict[Path, dict[str, Any]], films_mb: int) -> None:
    """Write the page of some reports, by their files, and say what is in it."""
    print(told_films(write_page(path, reports, films_mb=films_mb), films_mb))
    print(f"page: {path}")


def print_suites(simulator: Simulator) -> None:
    """Every suite with its number of tasks, and why it cannot run."""
    names = len(simulator.suites) + len(simulator.more_suites())
    found = []
    with counting_bar("suites", names > 10, stderr=True) as on_progress:
        for suite in simulator.list_suites():
            found.append((suite.name, str(suite.tasks) if not suite.fault else "-", suite.fault))
            on_progress(len(found), names)
    print(table(("suite", "tasks", ""), found, f"suites of {simulator.name}"))


def main(args: EvalArgs) -> int:
    """Run the evaluation, print its figures and write the report.

    Raises ConfigError, DataError, SimulatorError, EngineError.
    """
    simulator = load_simulator(args.sim)
    if args.list_suites:
        print_suites(simulator)
        return 0
    if args.check_simulator:
        return 0 if check_simulator(simulator) else 1
    if args.policy is None:
        raise ConfigError("--policy is required: give an engine (.lwam) or a baseline (.npz)")
    if args.processes < 1:
        raise ConfigError(f"--processes {args.processes}: at least 1")
    refuse_unfaithful(simulator, args.any_simulator)
    prepare_output(args.out)
    if args.markdown is not None:
        prepare_markdown(args.markdown)
    if args.html is not None:
        prepare_page(args.html, [args.policy, args.out, *args.beside], args.films_mb)
    earlier = {path: read_report(path) for path in args.beside}
    beside = [summary_line(report) for report in earlier.values()]
    rules = args.trial.chosen(simulator)
    plan = plan_trials(
        simulator, suites=args.suite, tasks=args.tasks, trials=args.trial.trials, first_trial=args.first_trial,
        protocol=rules, perturbations=perturbations(args.perturb, rules.states),
    )  # fmt: skip
    films = Films(args.videos, args.videos_of, plan.states)
    films.check()
    crew, policy = _crew(args, args.policy, simulator, plan, films)
    report = evaluate(simulator, policy, args.policy, plan, args.out, crew=crew, films=films, beside=beside)
    tell(report, beside, args.out, args.markdown)
    if args.html is not None:
        tell_page(args.html, {args.out: report, **earlier}, args.films_mb)
    return 0


def _crew(args: EvalArgs, file: Path, simulator: Simulator, plan: TrialPlan, films: Films) -> tuple[Crew, PolicyLike]:
    """Who runs the trials, and the policy, loaded here too: it must be one, and the report says what runs it."""
    alone = args.processes == 1 and args.ray is None
    threads = args.threads if alone else args.threads or 1
    source = PolicyFile(file, "", args.device, threads, args.precision)
    policy = source.load(simulator.robot, plan.protocol.replan_steps)
    if alone:
        return Alone(simulator, policy, plan, films), policy
    source = PolicyFile(file, content_hash(file), args.device, threads, args.precision)
    to = Assignment(args.sim, source, plan, films)
    if args.ray is None:
        return Processes(to, min(args.processes, len(plan))), policy
    try:
        from lightwam.sim.ray_crew import RayCrew
    except ModuleNotFoundError as error:
        raise ConfigError(f"--ray: {missing_module(error.name or 'ray', ('ray',))}") from error
    return RayCrew(to, args.ray, args.processes if args.processes > 1 else None), policy
