"""Draws the pictures of docs/concepts.md into docs/images/.

    python docs/figures/draw.py [--output_dir=docs/images]

World model, speculation and correctors are sketches. The planner's picture is
the library's own planner, run on a point that has to walk around an obstacle.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

from experiments.support import plot_style as style
from specmpc_jax import files
from specmpc_jax.config import PlannerConfig
from specmpc_jax.planning import mppi
from specmpc_jax.types import Array, PlanningModel

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
LIGHT = {BLUE: "#D6E8F4", ORANGE: "#FBEBCB", GREEN: "#D2EDE4", RED: "#F8DFD0"}
OUTCOMES = {"plan": BLUE, "accept": GREEN, "correct": ORANGE, "replan": RED}


def main(output_dir: Path) -> None:
    """Draws all pictures."""
    pictures = {
        "world_model": world_model,
        "mppi": planner,
        "speculation": speculation,
        "correctors": correctors,
    }
    for name, draw in pictures.items():
        path = output_dir / f"concept_{name}.png"
        with style.styled(), files.atomic_path(path) as temporary:
            # Without the version of matplotlib the file depends on the picture alone.
            draw().savefig(temporary, dpi=150, metadata={"Software": None})
        print(f"wrote {path}")


def world_model() -> Figure:
    """The encoder, then three steps of the latent dynamics with what the heads say of them."""
    figure, axes = _canvas(13.2, 5.4)
    _box(axes, 0.9, 2.2, "observation\n$o_t$", 1.6, 0.9)
    _box(axes, 2.9, 2.2, "encoder\n$h$", 1.3, 0.9, BLUE)
    _arrow(axes, (1.7, 2.2), (2.25, 2.2))
    _arrow(axes, (3.55, 2.2), (4.05, 2.2))
    latents = ["$z_t$", "$\\hat z_{t+1}$", "$\\hat z_{t+2}$", "$\\hat z_{t+3}$"]
    places = [4.5, 6.9, 9.3, 11.7]
    for step, (x, latent) in enumerate(zip(places, latents, strict=True)):
        _circle(axes, x, 2.2, latent)
        if step == 3:
            continue
        number, middle = ["t", "t+1", "t+2"][step], x + 1.2
        _box(axes, middle, 1.2, "$d$", 0.6, 0.6, BLUE)
        _circle(axes, middle, 2.65, f"$a_{{{number}}}$", ORANGE)
        _box(axes, middle, 4.0, "$R$", 0.6, 0.6, GREEN)
        axes.text(middle, 4.85, f"$\\hat r_{{{number}}}$", ha="center", va="center")
        _arrow(axes, (x + 0.4, 1.98), (middle - 0.3, 1.35))
        _arrow(axes, (middle + 0.3, 1.35), (x + 2.0, 1.98))
        _arrow(axes, (middle, 2.2), (middle, 1.5))
        _arrow(axes, (middle, 3.1), (middle, 3.7))
        _arrow(axes, (x + 0.25, 2.58), (middle - 0.3, 3.8))
        _arrow(axes, (middle, 4.3), (middle, 4.6))
    _box(axes, 11.7, 4.0, "$Q$", 0.6, 0.6, GREEN)
    _box(axes, 12.8, 4.0, "$p$", 0.6, 0.6, ORANGE)
    axes.text(11.7, 4.85, "value", ha="center", va="center")
    _arrow(axes, (11.7, 2.65), (11.7, 3.7))
    _arrow(axes, (12.0, 2.55), (12.65, 3.7))
    _arrow(axes, (12.5, 4.0), (12.0, 4.0))
    _arrow(axes, (11.7, 4.3), (11.7, 4.6))
    axes.text(
        6.6,
        0.15,
        "worth of an action sequence:  "
        "$\\hat r_t + \\gamma\\, \\hat r_{t+1} + \\gamma^2 \\hat r_{t+2} "
        "+ \\gamma^3 Q(\\hat z_{t+3}, a_{t+3})$,   $a_{t+3} \\sim p(\\hat z_{t+3})$",
        ha="center",
        va="center",
    )
    return figure


def planner() -> Figure:
    """Sampled, elite and mean paths of a plan's iterations, as the library computes them."""
    config = PlannerConfig(
        horizon=6, iterations=5, num_samples=256, num_elites=24, num_pi_trajs=16, max_std=1.0
    )
    start, goal, obstacle, radius = (
        np.array(p) for p in ((0.0, 0.0), (2.2, 0.9), (1.1, 0.45), 0.4)
    )
    model = _point_model(goal, obstacle, radius)
    noise = mppi.draw_noise(jax.random.key(1), config, 2, 2)
    warm_start = jnp.zeros((config.horizon, 2))
    trace = mppi.optimise(model, config, jnp.asarray(start, jnp.float32), warm_start, noise)
    figure, panels = style.panels(3, height=2.5, sharex=True, sharey=True)
    for axes, iteration in zip(panels, (0, 1, config.iterations - 1), strict=True):
        mean, std = warm_start, jnp.full_like(warm_start, config.max_std)
        if iteration:
            mean, std = trace.mean[iteration - 1], trace.std[iteration - 1]
        samples = jnp.clip(mean[:, None] + std[:, None] * noise.samples[iteration], -1, 1)
        axes.add_patch(Circle(obstacle, radius, color="#DDDDDD", zorder=0))
        for paths, color, width in (
            (_paths(start, samples[:, :120]), "#C4C4C4", 0.5),
            (_paths(start, trace.elite_actions[iteration]), BLUE, 0.6),
            (_paths(start, trace.mean[iteration][:, None]), RED, 2.0),
        ):
            axes.plot(*paths.T, color=color, linewidth=width, solid_capstyle="round")
        axes.plot(*start, "ko", markersize=5)
        axes.plot(*goal, "k*", markersize=9)
        axes.set_title(f"iteration {iteration + 1}")
        axes.set_aspect("equal")
        axes.grid(False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlim(-0.9, 2.5)
        axes.set_ylim(-1.2, 1.9)
    keys = [
        style.Line2D([], [], color=color, linewidth=width, label=label)
        for color, width, label in (
            ("#C4C4C4", 1.2, "samples"),
            (BLUE, 1.2, "elites"),
            (RED, 2.0, "their weighted mean"),
        )
    ]
    return style.finish(
        figure, panels, title="MPPI: sample, keep the best, sample around them", keys=keys
    )


def speculation() -> Figure:
    """Predicted and real latents over a few blocks, the mismatch, and the answers to it."""
    planned = [0, 3, 6, 8]  # steps at which a plan is made; the one at 8 is early
    real = np.array([0.2, 0.55, 0.95, 1.25, 1.3, 1.1, 0.95, 0.35, -0.35, -0.55, -0.6])
    ahead = {
        0: [0.2, 0.57, 0.8],
        3: [1.25, 1.45, 1.4],
        6: [0.95, 0.75, 0.75],
        8: [-0.35, -0.52, -0.5],
    }
    accept, replan = 0.08, 0.55
    figure = Figure(figsize=(style.TEXT_WIDTH, 4.3), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1.4, 1])
    for start in planned:
        steps = np.arange(start, start + 3)
        top.plot(
            steps, ahead[start], "--o", color=style.GREY, markersize=4, markerfacecolor="white"
        )
    top.plot(np.arange(len(real)), real, "-o", color="black", markersize=4)
    top.annotate("predicted by the plan", (2, 0.8), (2.25, 0.25), arrowprops=_line())
    top.annotate("real", (3.5, 1.28), (3.25, 0.75), arrowprops=_line())
    top.set_ylabel("latent")
    top.set_yticks([])
    bottom.axhspan(0, accept, color=LIGHT[GREEN], zorder=0)
    bottom.axhspan(accept, replan, color=LIGHT[ORANGE], zorder=0)
    bottom.axhspan(replan, 1.4, color=LIGHT[RED], zorder=0)
    for step, value in enumerate(real):
        begin = max(p for p in planned if p <= step)
        early = step == 8
        predicted = ahead[6][2] if early else ahead[begin][step - begin]
        distance = abs(value - predicted)
        if step in planned and not early:
            answer = "plan"
        else:
            answer = (
                "accept" if distance <= accept else "correct" if distance <= replan else "replan"
            )
        bottom.bar(step, max(distance, 0.015), 0.5, color=OUTCOMES[answer])
        height = 1.24 if early else max(distance + 0.04, 0.12)
        bottom.text(step, height, answer, ha="center", fontsize=8.5, color=OUTCOMES[answer])
    for value, name in ((accept, "$\\tau_{accept}$"), (replan, "$\\tau_{replan}$")):
        bottom.axhline(value, color=style.GREY, linewidth=0.8)
        bottom.text(10.9, value, name, va="center", ha="left")
    for axes in (top, bottom):
        axes.grid(False)
        for start in planned[1:]:
            axes.axvline(start - 0.5, color="#BBBBBB", linewidth=0.8, linestyle=":")
    bottom.set(ylabel="mismatch", xlabel="step", ylim=(0, 1.4), xlim=(-0.6, 10.7), yticks=[])
    bottom.set_xticks(range(11))
    figure.suptitle("Blocks of 3: two answers out of three cost no plan")
    return figure


def correctors() -> Figure:
    """What each kind of corrector sees, and how its action comes about."""
    figure, axes = _canvas(13.4, 6.2)
    axes.axvline(3.0, color="#CCCCCC", linewidth=0.8)
    axes.axvline(8.15, color="#CCCCCC", linewidth=0.8)
    for x, name in ((1.5, "behaviour cloning"), (5.55, "two-tower"), (10.7, "temporal")):
        axes.text(x, 5.95, name, ha="center", va="center", fontsize=11, fontweight="bold")
    _box(axes, 1.5, 0.6, "real $z$", 1.2, 0.6)
    _box(axes, 1.5, 3.0, "MLP", 1.2, 0.6, BLUE)
    _box(axes, 1.5, 5.35, "action", 1.3, 0.5, GREEN)
    _arrow(axes, (1.5, 0.9), (1.5, 2.7))
    _arrow(axes, (1.5, 3.3), (1.5, 5.1))

    names = ("real $z$", "predicted $z$", "difference", "planned $a$")
    for x, name in zip((3.75, 4.92, 6.09, 7.26), names, strict=True):
        _box(axes, x, 0.6, name, 1.08, 0.6, ORANGE if name == names[-1] else None, size=7)
        _box(axes, x, 1.75, "MLP", 0.9, 0.5, BLUE, size=7.5)
        _arrow(axes, (x, 0.9), (x, 1.5))
        _arrow(axes, (x, 2.0), (5.55 + (x - 5.55) * 0.4, 2.92))
    _fusion(axes, 5.55, 7.26 + 0.54)

    for name, x in zip(("$t-3$", "$t-2$", "$t-1$", "$t$"), (8.9, 9.8, 10.7, 11.6), strict=True):
        _box(axes, x, 0.6, name, 0.75, 0.6)
        _box(axes, x, 1.45, "token", 0.75, 0.4, BLUE, size=7.5)
        _arrow(axes, (x, 0.9), (x, 1.25))
        _arrow(axes, (x, 1.65), (x, 1.9))
    _box(axes, 10.25, 2.15, "Transformer", 3.5, 0.5, BLUE)
    axes.text(11.0, 0.02, "each: real z, predicted z, difference, planned a", ha="center", size=7)
    _box(axes, 12.65, 0.6, "planned $a$", 0.95, 0.6, ORANGE, size=7)
    _box(axes, 12.65, 1.75, "MLP", 0.8, 0.5, BLUE, size=7.5)
    _arrow(axes, (12.65, 0.9), (12.65, 1.5))
    _arrow(axes, (11.6, 2.4), (10.9, 2.92))
    _arrow(axes, (12.45, 2.0), (11.4, 2.92))
    _fusion(axes, 10.7, 12.65 + 0.48)
    return figure


def _fusion(axes: Axes, x: float, edge: float) -> None:
    """The gated part that both learned correctors end with; the plan's box ends at `edge`."""
    _box(axes, x, 3.2, "gate: all, or the plan alone", 3.1, 0.55, BLUE, size=8)
    _box(axes, x, 4.0, "tanh: a bounded change", 3.1, 0.55, BLUE, size=8)
    _circle(axes, x, 4.7, "+", radius=0.2)
    _box(axes, x, 5.35, "action", 1.3, 0.5, GREEN)
    _arrow(axes, (x, 3.48), (x, 3.72))
    _arrow(axes, (x, 4.28), (x, 4.5))
    _arrow(axes, (x, 4.9), (x, 5.1))
    side = edge + 0.12
    axes.plot([edge, side, side], [0.6, 0.6, 4.7], color=ORANGE, linewidth=1)
    _arrow(axes, (side, 4.7), (x + 0.2, 4.7), ORANGE)


def _point_model(goal: np.ndarray, obstacle: np.ndarray, radius: np.ndarray) -> PlanningModel:
    """A point in the plane; an action moves it, the obstacle costs, the goal is worth something."""

    def step(z: Array, action: Array) -> tuple[Array, Array]:
        z = z + 0.5 * action
        inside = jnp.maximum(radius + 0.08 - jnp.linalg.norm(z - obstacle, axis=-1), 0.0)
        away = jnp.linalg.norm(z - goal, axis=-1)
        return -60.0 * inside - 2.0 * away - 0.3 * jnp.sum(action**2, axis=-1), z

    return PlanningModel(
        step=step,
        policy=lambda z, noise: jnp.clip(0.5 * noise, -1, 1),
        policy_mean=lambda z: jnp.zeros_like(z),
        value=lambda z, action, members: -8.0 * jnp.linalg.norm(z - goal, axis=-1),
        termination=None,
        discount=jnp.asarray(0.99),
        action_mask=None,
        num_q=2,
    )


def _paths(start: np.ndarray, actions: Array) -> np.ndarray:
    """Paths `[N, H + 1, 2]` of the point under actions `[H, N, 2]`."""
    steps = np.concatenate([np.zeros((1, *actions.shape[1:])), 0.5 * np.asarray(actions)])
    return np.swapaxes(start + np.cumsum(steps, axis=0), 0, 1)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Axes without marks whose units are those of the sketch."""
    figure = Figure(figsize=(style.TEXT_WIDTH * 1.25, style.TEXT_WIDTH * 1.25 * height / width))
    axes = figure.add_axes((0.01, 0.02, 0.98, 0.96))
    axes.set(xlim=(0, width), ylim=(-0.2, height))
    axes.set_aspect("equal")
    axes.axis("off")
    return figure, axes


def _box(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    width: float,
    height: float,
    color: str | None = None,
    size: float = 9,
) -> None:
    face, edge = (LIGHT[color], color) if color else ("#F3F3F3", style.GREY)
    corner = (x - width / 2 + 0.06, y - height / 2 + 0.06)
    shape = "round,pad=0.06,rounding_size=0.12"
    axes.add_patch(
        FancyBboxPatch(
            corner, width - 0.12, height - 0.12, boxstyle=shape, facecolor=face, edgecolor=edge
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=size)


def _circle(
    axes: Axes, x: float, y: float, text: str, color: str | None = None, radius: float = 0.45
) -> None:
    face, edge = (LIGHT[color], color) if color else ("white", "black")
    axes.add_patch(Circle((x, y), radius, facecolor=face, edgecolor=edge))
    axes.text(x, y, text, ha="center", va="center", fontsize=9)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = "black"
) -> None:
    arrow = dict(arrowstyle="-|>", color=color, linewidth=1, shrinkA=0, shrinkB=0)
    axes.annotate("", end, start, arrowprops=arrow)


def _line() -> dict[str, object]:
    return dict(arrowstyle="-", color=style.GREY, linewidth=0.7)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draws the pictures of docs/concepts.md.")
    parser.add_argument("--output_dir", type=Path, default=Path("docs/images"))
    main(**vars(parser.parse_args()))
