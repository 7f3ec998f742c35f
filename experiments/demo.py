"""The whole story on the bundled teacher, in minutes on two CPU cores.

    python -m experiments.demo [--quick] [--output_dir=demo_output]

Collects corrector data, trains the correctors, lets the first one drive for
another round of data, compares all variants over the same environment seeds,
a corrector that comes along among them, and ends with a table, plots and a
video. What is complete is kept when the demo is started again.
"""

import dataclasses
from pathlib import Path

from absl import flags

import specmpc_jax as sm
from experiments.support import launch, plotting, tables
from experiments.support.collecting import collect_round, finish
from experiments.support.compare import Results, compare, shared_settings, table
from specmpc_jax.agent import Agent
from specmpc_jax.config import CorrectorConfig, CorrectorTrainConfig
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.correctors.dataset import CorrectorDataset, join
from specmpc_jax.correctors.training import Epoch, train
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation import variants as variant_names
from specmpc_jax.evaluation.comparison import EvaluationSettings
from specmpc_jax.evaluation.recording import record_episode
from specmpc_jax.evaluation.variants import make_controller
from specmpc_jax.progress import Progress

OUTPUT_DIR = flags.DEFINE_string("output_dir", "demo_output", "Directory of everything made.")
EPISODES = flags.DEFINE_integer(
    "episodes", None, "Evaluation episodes of each variant (default 4, quick 2).", lower_bound=1
)
QUICK = flags.DEFINE_bool("quick", False, "Less of everything: under 3 minutes, wider intervals.")

TEACHER = "bundled:walker-walk-1m"
TASK = "walker-walk"
BLOCK = 3
# Distilled from several times the data that the demo has time for, and so for longer blocks too.
# The demo trains no corrector of this kind: one line of a plot is one corrector.
READY = "bundled:walker-walk-1m-bc"
COLLECT_SEED, EVALUATE_SEED = 100_000, 1_000


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much of everything; counts are in episodes.

    The planner is the one that the bundled teacher was trained with, a quarter
    of the published one's work (quick: an eighth); it serves all variants and
    makes the labels.
    """

    collect: int = 4
    aggregate: int = 4
    evaluate: int = 4
    epochs: int = 40
    num_samples: int = 192
    iterations: int = 4
    num_elites: int = 32
    num_pi_trajs: int = 12
    video_steps: int = 250
    variants: tuple[str, ...] = (
        "baseline",
        "policy",
        "3_step_naive",
        "3_step_corrector",
        "3_step_corrector_temporal",
        "3_step_gated",
        "5_step_naive",
    )
    ready_variants: tuple[str, ...] = ("3_step_bc", "5_step_bc")


FULL = Scale()
SMALL = Scale(
    collect=2,
    aggregate=1,
    evaluate=2,
    epochs=20,
    num_samples=128,
    iterations=3,
    num_elites=24,
    video_steps=100,
    variants=("baseline", "policy", "3_step_naive", "3_step_corrector"),
    ready_variants=("5_step_bc",),
)
KINDS = ("two_tower", "temporal", "gated")


def main() -> None:
    """Runs the demo."""
    scale = SMALL if QUICK.value else FULL
    if EPISODES.value is not None:
        scale = dataclasses.replace(scale, evaluate=EPISODES.value)
    output = Path(OUTPUT_DIR.value)
    agent = sm.load(TEACHER).with_planner(
        num_samples=scale.num_samples,
        iterations=scale.iterations,
        num_elites=scale.num_elites,
        num_pi_trajs=scale.num_pi_trajs,
    )
    wanted = [variant_names.parse(name) for name in scale.variants]
    kinds = [kind for kind in KINDS if kind in {variant.corrector for variant in wanted}]

    _say(1, f"{TASK}: run plans in blocks of {BLOCK}, label every step with the teacher's action")
    data = _collect(agent, scale.collect, output, 0, None)
    _say(2, "train the first corrector, and let it drive for a round of its own data")
    first = _train(agent, "two_tower", data, scale, output / "correctors_round_0")
    data = join([data, _collect(agent, scale.aggregate, output, 1, first)])
    _say(3, "train the correctors on all data")
    correctors = {kind: _train(agent, kind, data, scale, output / "correctors") for kind in kinds}
    _say(4, f"compare the variants over {scale.evaluate} equal episodes")
    seeds = tuple(range(EVALUATE_SEED, EVALUATE_SEED + scale.evaluate))
    settings = EvaluationSettings(TASK, seeds)
    results = Results(output / "summary.csv", shared_settings(settings, "elite"))
    compare(agent, f"{TASK}-1m", wanted, correctors, settings, results)
    ready = {"bc": Corrector.load(READY)}
    ready_variants = [variant_names.parse(name) for name in scale.ready_variants]
    compare(agent, f"{TASK}-1m", ready_variants, ready, settings, results)
    _say(5, "draw the plots and film an episode")
    made = plotting.plot_results(results.summary_path, output / "plots")
    controller = make_controller(agent, ready_variants[-1], ready)
    made += _film(controller, scale, output / "videos" / f"{TASK}-{scale.ready_variants[-1]}.mp4")
    print()
    print(tables.format_text(table(results)))
    print(f"\nbc is {READY}, distilled from 30 episodes; the other correctors from those above\n")
    for path in (results.summary_path, results.episodes_path, *made):
        print(path)


def _collect(
    agent: Agent, episodes: int, output: Path, round_number: int, corrector: Corrector | None
) -> CorrectorDataset:
    """One round of data; episodes that are on disk with the same settings are not run again."""
    path = output / "data" / f"round_{round_number}.npz"
    first = COLLECT_SEED + 1000 * round_number
    metadata = {
        "teacher": agent.fingerprint,
        "model_size": agent.config.model_size,
        "task": TASK,
        "planner": dataclasses.asdict(agent.planner),
        "exec_horizon": BLOCK,
        "history_len": CorrectorConfig().history_len,
        "seed": launch.SEED.value,
        "corrector": corrector.fingerprint if corrector else None,
    }
    controller = agent.controller(BLOCK, corrector)
    seeds = range(first, first + episodes)
    data = collect_round(controller, TASK, seeds, 1, metadata, round_number, path)
    finish(data, path)
    return data


def _train(
    agent: Agent, kind: str, data: CorrectorDataset, scale: Scale, directory: Path
) -> Corrector:
    """Trains one corrector and stores it; prints its errors."""
    with _progress(scale.epochs, kind, "epoch") as progress:

        def report(epoch: Epoch) -> None:
            progress.advance(train=epoch.train_loss, held_out=epoch.held_out_loss)

        training = CorrectorTrainConfig(epochs=scale.epochs, seed=launch.SEED.value)
        corrector, _ = train(CorrectorConfig(kind=kind), training, data, report)
    corrector.save(str(directory / f"corrector_1m_{kind}"), overwrite=True)
    print(
        f"{kind}: squared error to the teacher {corrector.record['held_out_loss']:.3f} on held-out "
        f"episodes; the plan's own is {corrector.record['plan_error']:.3f}",
        flush=True,
    )
    return corrector


def _film(controller: sm.Controller, scale: Scale, path: Path) -> list[Path]:
    """Films an episode; a machine that cannot render gets a line that says so."""
    try:
        with _progress(scale.video_steps, "film", "step") as progress:
            record_episode(
                controller,
                TASK,
                EVALUATE_SEED,
                launch.key(),
                path,
                max_steps=scale.video_steps,
                advance=progress.advance,
            )
    except UserError as error:
        print(f"no video: {error}")
        return []
    return [path]


def _progress(total: int, name: str, unit: str) -> Progress:
    return Progress(total, name, unit=unit, quiet=launch.QUIET.value)


def _say(number: int, text: str) -> None:
    print(f"\n[{number}/5] {text}", flush=True)


if __name__ == "__main__":
    launch.run(main)
