"""The plan of TD-MPC2 in PyTorch, as an eager implementation does it: a baseline for speed.

It is written from the formulas (spec sections 2 to 5 and 7) and takes this project's
weights. What makes eager code eager is kept: every sampled sequence, the policy
prior's included, is imagined anew in each iteration, all members of the Q ensemble are
evaluated at once by `torch.vmap` before two are chosen, and the iterations are a loop
in Python. Only single-task models whose episodes cannot end are planned for.
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converters import conversion
from experiments.support.planning_programs import Program
from experiments.support.planning_settings import Setting
from specmpc_jax.config import ModelConfig, PlannerConfig
from specmpc_jax.errors import UserError
from specmpc_jax.types import Params

MEMORY_SOURCE = "torch: most that the CUDA allocator held"


class TorchNoise(NamedTuple):
    """Every random number of one call; as `PlannerNoise`, with an axis of environments."""

    policy: Tensor  # [H, B, P, A]
    samples: Tensor  # [I, H, B, N-P, A]
    value: Tensor  # [I, B, N, A]
    members: Tensor  # [I, B, 2] int
    gumbel: Tensor  # [B, E]


class TorchPlan(NamedTuple):
    """Result of one call."""

    action: Tensor  # [B, A]
    mean: Tensor  # [H, B, A]
    std: Tensor  # [H, B, A]
    elite_values: Tensor  # [B, E] descending


class NormedLinear(nn.Linear):
    """Linear map, LayerNorm, activation."""

    def __init__(self, inputs: int, outputs: int, activation: Callable[[Tensor], Tensor]):
        super().__init__(inputs, outputs)
        self.ln = nn.LayerNorm(outputs)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[..., F]` to `[..., M]`."""
        return self.activation(self.ln(super().forward(x)))


class Ensemble(nn.Module):
    """Members of one architecture whose weights are stacked, evaluated together."""

    def __init__(self, member: nn.Module, weights: Mapping[str, Tensor]):
        super().__init__()
        # Only its structure is called; keeping it out of the module tree keeps it there.
        self.member = [member.to("meta")]
        self.names = list(weights)
        self.stacked = nn.ParameterList(weights.values())

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[..., F]` to the outputs of all members `[K, ..., M]`."""
        weights = dict(zip(self.names, self.stacked, strict=True))
        return torch.vmap(self._call, (0, None))(weights, x)

    def _call(self, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(self.member[0], weights, (x,))


class TorchWorldModel(nn.Module):
    """The parts of a world model that a plan needs, with given weights."""

    def __init__(self, config: ModelConfig, params: Params):
        super().__init__()
        self.config = config
        latent, action, hidden = config.latent_dim, config.action_dim, config.mlp_dim

        self.dynamics = _mlp(latent + action, hidden, NormedLinear(hidden, latent, self.simnorm))
        self.reward = _mlp(latent + action, hidden, nn.Linear(hidden, config.num_bins))
        self.policy = _mlp(latent, hidden, nn.Linear(hidden, 2 * action))
        member = _mlp(latent + action, hidden, nn.Linear(hidden, config.num_bins))
        tensors = conversion.to_torch({**params, "target_q": params["q"]}, config)
        self.dynamics.load_state_dict(_part(tensors, "_dynamics."))
        self.reward.load_state_dict(_part(tensors, "_reward."))
        self.policy.load_state_dict(_part(tensors, "_pi."))
        self.q = Ensemble(member, _part(tensors, "_Qs.params."))
        bins = torch.linspace(config.vmin, config.vmax, config.num_bins)
        self.register_buffer("bins", bins)
        self.requires_grad_(False).eval()

    def simnorm(self, x: Tensor) -> Tensor:
        """Softmax within groups of the last axis, same shape."""
        return F.softmax(x.unflatten(-1, (-1, self.config.simnorm_dim)), -1).flatten(-2)

    def act(self, z: Tensor, noise: Tensor) -> Tensor:
        """Samples the policy prior: `[..., L]`, `[..., A]` -> `[..., A]`."""
        config = self.config
        mean, log_std = self.policy(z).float().chunk(2, -1)
        spread = 0.5 * (config.log_std_max - config.log_std_min)
        log_std = config.log_std_min + spread * (torch.tanh(log_std) + 1)
        return torch.tanh(mean + noise * log_std.exp())

    def value(self, z: Tensor, action: Tensor, members: Tensor) -> Tensor:
        """Mean of two Q members `[B, 2]`: `[B, N, L]`, `[B, N, A]` -> `[B, N]`."""
        logits = self.q(torch.cat([z, action], -1))
        lanes = torch.arange(members.shape[0], device=members.device)
        return self.decode(logits[members.T, lanes]).mean(0)

    def decode(self, logits: Tensor) -> Tensor:
        """Turns logits `[..., bins]` into scalars `[...]`."""
        x = (F.softmax(logits.float(), -1) * self.bins).sum(-1)
        return torch.sign(x) * torch.expm1(x.abs())


class TorchPlanner:
    """MPPI over a `TorchWorldModel`, for a batch of environments."""

    def __init__(
        self,
        config: ModelConfig,
        planner: PlannerConfig,
        params: Params,
        *,
        device: str = "cpu",
        precision: str = "float32",
        compiled: bool = False,
    ):
        """Copies the weights.

        Args:
          config: the architecture.
          planner: planner settings.
          params: weights, `target_q` may be absent.
          device: "cpu" or "cuda".
          precision: "float32", or "bfloat16" for PyTorch's autocast.
          compiled: let `torch.compile` have the prior's rollouts and the iterations.

        Raises:
          UserError: if the model is a multi-task or an episodic one.
        """
        if config.multitask or config.episodic:
            raise UserError("the PyTorch baseline plans for single-task, endless models only")
        self.config, self.planner = config, planner
        self.device, self.precision = torch.device(device), precision
        self.model = TorchWorldModel(config, params).to(self.device)
        self.discount = config.discounts[0]
        self._prior, self._iteration = self._roll_out_prior, self._iterate
        if compiled:
            # Else planners of other shapes before this one would decide how it is compiled.
            torch.compiler.reset()
            self._prior = torch.compile(self._prior, dynamic=False)
            self._iteration = torch.compile(self._iteration, dynamic=False)

    def draw_noise(self, batch_size: int) -> TorchNoise:
        """Draws the random numbers of one call from PyTorch's global generator."""
        planner, config, device = self.planner, self.config, self.device
        horizon, actions = planner.horizon, config.action_dim
        explored = planner.num_samples - planner.num_pi_trajs
        lead = (planner.iterations, batch_size)
        order = torch.rand(*lead, config.num_q, device=device).argsort(-1)
        uniform = torch.rand(batch_size, planner.num_elites, device=device)
        return TorchNoise(
            policy=torch.randn(horizon, batch_size, planner.num_pi_trajs, actions, device=device),
            samples=torch.randn(lead[0], horizon, lead[1], explored, actions, device=device),
            value=torch.randn(*lead, planner.num_samples, actions, device=device),
            members=order[..., :2],
            gumbel=-torch.log(-torch.log(uniform.clamp_min(1e-20))),
        )

    @torch.no_grad()
    def plan(self, z: Tensor, mean: Tensor, noise: TorchNoise) -> TorchPlan:
        """Plans from latents `[B, L]` and warm starts `[H, B, A]`."""
        with torch.autocast(self.device.type, torch.bfloat16, self.precision == "bfloat16"):
            prior = self._prior(z, noise.policy)
            std = torch.full_like(mean, self.planner.max_std)
            for draws in zip(noise.samples, noise.value, noise.members, strict=True):
                mean, std, scores, elites, values = self._iteration(z, prior, mean, std, *draws)
            chosen = torch.argmax(torch.log(scores) + noise.gumbel, -1)
            lanes = torch.arange(z.shape[0], device=z.device)
            return TorchPlan(elites[0, lanes, chosen].clamp(-1, 1), mean, std, values)

    def _roll_out_prior(self, z: Tensor, noise: Tensor) -> Tensor:
        """Actions `[H, B, P, A]` of the policy prior's sequences."""
        z = z[:, None].repeat(1, self.planner.num_pi_trajs, 1)
        actions = []
        for step_noise in noise:
            if actions:
                z = self.model.dynamics(torch.cat([z, actions[-1]], -1))
            actions.append(self.model.act(z, step_noise))
        return torch.stack(actions)

    def _iterate(
        self,
        z: Tensor,
        prior: Tensor,
        mean: Tensor,
        std: Tensor,
        samples: Tensor,
        value_noise: Tensor,
        members: Tensor,
    ) -> tuple[Tensor, ...]:
        """One iteration: new mean and std, then the elites' scores, actions and values."""
        planner = self.planner
        explored = (mean[:, :, None] + std[:, :, None] * samples).clamp(-1, 1)
        actions = torch.cat([prior, explored], 2)
        z = z[:, None].repeat(1, planner.num_samples, 1)
        values = self._estimate(z, actions, value_noise, members).nan_to_num(0.0)
        elite_values, index = torch.topk(values, planner.num_elites, dim=-1)
        index = index[None, :, :, None].expand(planner.horizon, -1, -1, actions.shape[-1])
        elites = torch.gather(actions, 2, index)
        scores = torch.softmax(planner.temperature * elite_values, -1)
        weights = scores[None, :, :, None]
        mean = (weights * elites).sum(2)
        std = (weights * (elites - mean[:, :, None]) ** 2).sum(2).sqrt()
        return mean, std.clamp(planner.min_std, planner.max_std), scores, elites, elite_values

    def _estimate(self, z: Tensor, actions: Tensor, noise: Tensor, members: Tensor) -> Tensor:
        """Values `[B, N]` of sequences `[H, B, N, A]` from latents `[B, N, L]`."""
        total, weight = torch.zeros_like(z[..., 0]), 1.0
        for action in actions:
            x = torch.cat([z, action], -1)
            total = total + weight * self.model.decode(self.model.reward(x))
            z = self.model.dynamics(x)
            weight = weight * self.discount
        return total + weight * self.model.value(z, self.model.act(z, noise), members)


def torch_program(
    config: ModelConfig,
    params: Params,
    setting: Setting,
    *,
    compiled: bool,
    on_gpu: bool,
    tensorfloat32: bool,
) -> Program:
    """A planner with its inputs, ready to be timed.

    Args:
      config: the architecture.
      params: its weights.
      setting: what to plan.
      compiled: use `torch.compile`; it compiles before this function returns.
      on_gpu: plan on the GPU, else on the CPU.
      tensorfloat32: let a GPU compute float32 products in tensorfloat32.

    Raises:
      UserError: if PyTorch has no GPU, cannot compile, or knows no such model.
    """
    if on_gpu and not torch.cuda.is_available():
        raise UserError(f"PyTorch {torch.__version__} sees no GPU")
    if on_gpu:
        torch.set_float32_matmul_precision("high" if tensorfloat32 else "highest")
    planner = TorchPlanner(
        config,
        setting.planner,
        params,
        device="cuda" if on_gpu else "cpu",
        precision=setting.precision,
        compiled=compiled,
    )
    z = torch.rand(setting.batch_size, config.latent_dim, device=planner.device)
    z = planner.model.simnorm(z)
    mean = torch.zeros(
        setting.planner.horizon, setting.batch_size, config.action_dim, device=planner.device
    )

    def call() -> TorchPlan:
        plan = planner.plan(z, mean, planner.draw_noise(setting.batch_size))
        if on_gpu:
            torch.cuda.synchronize()
        return plan

    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    try:
        call()
    except RuntimeError as error:  # what torch.compile raises, whatever is amiss
        if not compiled:
            raise
        raise UserError(f"torch.compile fails: {_first_line(error)}") from error
    elapsed = time.perf_counter() - start if compiled else None
    memory = torch.cuda.max_memory_allocated() / 1e6 if on_gpu else None
    return Program(call, elapsed, memory, MEMORY_SOURCE if on_gpu else None)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _mlp(inputs: int, hidden: int, last: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        NormedLinear(inputs, hidden, F.mish), NormedLinear(hidden, hidden, F.mish), last
    )


def _part(tensors: Mapping[str, object], prefix: str) -> dict[str, Tensor]:
    """Tensors whose keys begin with a prefix, without it."""
    return {
        key.removeprefix(prefix): value
        for key, value in tensors.items()
        if key.startswith(prefix) and isinstance(value, Tensor)
    }
