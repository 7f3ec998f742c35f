"""Controls a task of the DeepMind Control Suite with an exported controller.

python docs/examples/control_exported.py exported/walker-walk [--steps=500] [--seed=0]

Needs jax, numpy and dm_control only: the directory of `experiments.export_controller`
holds the programs and their arrays.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import numpy as np
from dm_control import suite

# What the teacher was trained with: environment steps in an agent step, and its names of domains.
ACTION_REPEAT = 2
DOMAINS = {"cup": "ball_in_cup", "pointmass": "point_mass"}


def control(directory: Path, steps: int, seed: int) -> None:
    """Runs one episode of at most `steps` agent steps and prints its return."""
    manifest = json.loads((directory / "manifest.json").read_text())
    if manifest["observation"] != "state" or manifest["batch_size"] is not None:
        sys.exit("this example controls a single environment from its state")
    with np.load(directory / "arrays.npz", allow_pickle=False) as archive:
        arrays = jax.device_put(dict(archive))

    def program(name):
        serialized = (directory / manifest["programs"][name]["file"]).read_bytes()
        return jax.jit(jax.export.deserialize(bytearray(serialized)).call)

    initial_state, step = program("initial_state"), program("step")
    domain, task = manifest["task"].split("-", 1)
    domain = DOMAINS.get(domain, domain)
    environment = suite.load(domain, task.replace("-", "_"), task_kwargs={"random": seed})
    limits = environment.action_spec()

    def flatten(timestep):
        parts = [np.asarray(value, np.float32).ravel() for value in timestep.observation.values()]
        values = np.concatenate(parts)
        # Multi-task teachers read all tasks at one width.
        return np.pad(values, (0, manifest["observation_shape"][0] - len(values)))

    timestep = environment.reset()
    state = initial_state(jax.random.key(seed))
    total, outcomes = 0.0, [0, 0, 0]
    for count in range(steps):
        action, state, info = step(arrays, state, flatten(timestep))
        action = np.asarray(action, np.float64)[: limits.shape[0]]
        outcomes[int(info["outcome"])] += 1
        if count < 3:
            print(f"step {count}: action {np.array2string(action, precision=6)}")
        scaled = limits.minimum + (limits.maximum - limits.minimum) / 2 * (action + 1)
        for _ in range(ACTION_REPEAT):
            timestep = environment.step(scaled)
            total += timestep.reward
            if timestep.last():
                break
        if timestep.last():
            break
    accepted, corrected, planned = outcomes
    print(f"return {total:.1f}: {accepted} accepted, {corrected} corrected, {planned} planned")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Controls a task with an exported controller.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    control(**vars(parser.parse_args()))
