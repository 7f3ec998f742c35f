"""Official checkpoints in three layouts, their parameters, and the way back."""

import jax
import numpy as np
import pytest

import golden_data
from specmpc_jax import tasks
from specmpc_jax.config import MODEL_SIZES, ModelConfig, model_config
from specmpc_jax.errors import UserError
from specmpc_jax.world_model import WorldModel

torch = pytest.importorskip("torch")

from converters import architecture, conversion, load_torch, torch_reader, verify  # noqa: E402
from converters.loading import task_of_file_name  # noqa: E402
from converters.torch_reader import Layout  # noqa: E402

TINY = ("single_tiny", "mt_tiny", "episodic_tiny", "rgb_tiny")
OLD = ("legacy_tiny", "legacy_mt_tiny", "prerelease_tiny")
FULL_SIZE = ("single_1m", "episodic_1m")
MT_ACTION_DIMS = (1, 2, 3, 4)


def checkpoint_path(case):
    return golden_data.golden_dir(case) / "checkpoint.pt"


def state_dict_of(case):
    return dict(torch_reader.read(checkpoint_path(case)).state_dict)


def load(case):
    extra = {"action_dims": MT_ACTION_DIMS} if case == "legacy_mt_tiny" else {}
    return load_torch(checkpoint_path(case), **extra)


def facts_of(case):
    return architecture.TaskFacts(action_dims=MT_ACTION_DIMS if "mt" in case else ())


def assert_same_tree(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("case", TINY + FULL_SIZE)
def test_configuration_is_read_off_the_weights(case):
    params, config = load(case)
    official = golden_data.load(case).meta["cfg"]
    for name in ("action_dim", "latent_dim", "mlp_dim", "num_q", "num_bins", "task_dim"):
        assert getattr(config, name) == official[name], name
    assert config.episodic == official["episodic"]
    assert config.observation == official["obs"]
    assert config.observation_shape == tuple(official["obs_shape"][official["obs"]])
    assert config.model_size == official["model_size"]
    assert (config.log_std_min, config.log_std_max) == (-10, 2)
    assert config.num_tasks == len(official["tasks"])
    assert config.action_dims == tuple(official.get("action_dims", ()))
    if official["obs"] == "state":
        assert config.enc_dim == official["enc_dim"]
        assert config.num_enc_layers == official["num_enc_layers"]
    else:
        assert config.num_channels * 16 == config.latent_dim
    # The official count leaves the target ensemble out.
    trained = {name: part for name, part in params.items() if name != "target_q"}
    total = sum(leaf.size for leaf in jax.tree.leaves(trained))
    assert total == golden_data.load(case).meta["total_params"]


@pytest.mark.parametrize("case", TINY + OLD)
def test_tree_is_the_models_own(case):
    params, config = load(case)
    expected = jax.eval_shape(WorldModel(config).init, jax.random.key(0))
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    for leaf, wanted in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        assert isinstance(leaf, np.ndarray) and leaf.flags.c_contiguous
        assert (leaf.shape, leaf.dtype) == (wanted.shape, wanted.dtype)


@pytest.mark.parametrize(
    ("case", "layout", "same_as"),
    [
        ("legacy_tiny", Layout.FLAT_Q, "single_tiny"),
        ("legacy_mt_tiny", Layout.FLAT_Q, "mt_tiny"),
        ("prerelease_tiny", Layout.PRE_RELEASE, "single_tiny"),
    ],
)
def test_older_layouts_hold_the_same_weights(case, layout, same_as):
    assert torch_reader.read(checkpoint_path(case)).layout is layout
    params, config = load(case)
    expected_params, expected_config = load(same_as)
    assert_same_tree(params, expected_params)
    assert config.symlog_observations == (layout is Layout.PRE_RELEASE)
    for name in ("observation_shape", "action_dim", "action_dims", "task_dim", "latent_dim"):
        assert getattr(config, name) == getattr(expected_config, name)


def test_prerelease_encoder_matches_golden_latents():
    golden = golden_data.load("prerelease_tiny")
    params, config = load("prerelease_tiny")
    z = WorldModel(config).encode(params, golden.arrays["obs"])
    np.testing.assert_allclose(z, golden.arrays["z"], rtol=0, atol=1e-6)
    plain = WorldModel(load("single_tiny")[1]).encode(params, golden.arrays["obs"])
    assert np.max(np.abs(plain - golden.arrays["z"])) > 1e-2


@pytest.mark.parametrize("case", TINY)
@pytest.mark.parametrize("file", ["checkpoint.pt", "checkpoint_after_1.pt"])
def test_round_trip_is_bit_equal(case, file):
    before = torch_reader.read(golden_data.golden_dir(case) / file).state_dict
    after = conversion.to_torch(*conversion.to_flax(before))
    assert set(after) == set(before)
    for key, value in before.items():
        if isinstance(value, torch.Tensor):
            assert after[key].dtype == value.dtype and torch.equal(after[key], value), key
        else:
            assert after[key] == value, key


def test_older_layout_is_written_back_in_the_current_one():
    after = conversion.to_torch(*load("legacy_tiny"))
    expected = state_dict_of("single_tiny")
    assert set(after) == set(expected)
    for key, value in expected.items():
        assert torch.equal(after[key], value) if torch.is_tensor(value) else after[key] == value


def test_symlog_model_is_not_written_for_code_without_symlog():
    with pytest.raises(UserError, match="symlog"):
        conversion.to_torch(*load("prerelease_tiny"))


@pytest.mark.parametrize("case", TINY + OLD)
def test_unknown_and_missing_keys_are_refused_by_name(case):
    state_dict = state_dict_of(case)
    for key in state_dict:
        rest = {k: v for k, v in state_dict.items() if k != key}
        if key in ("_Qs.params.0.weight", "_Qs.params.0", "_task_emb.weight"):
            continue  # these decide which model it is at all; see the next test
        with pytest.raises(UserError) as error:
            conversion.to_flax(rest, facts_of(case))
        assert "missing" in str(error.value) or "unknown" in str(error.value), key
        if not key.startswith(("_encoder", "_dynamics.0.0")):
            assert f"missing keys: {key}" in str(error.value)
    with pytest.raises(UserError, match=r"unknown keys: _reward\.9\.weight"):
        conversion.to_flax(state_dict | {"_reward.9.weight": torch.zeros(2)}, facts_of(case))


@pytest.mark.parametrize("case", TINY + OLD)
def test_losing_a_telling_key_is_refused_too(case):
    state_dict = state_dict_of(case)
    for key in {"_Qs.params.0.weight", "_Qs.params.0", "_task_emb.weight"} & set(state_dict):
        rest = {k: v for k, v in state_dict.items() if k != key}
        with pytest.raises(UserError):
            conversion.to_flax(rest, facts_of(case))


@pytest.mark.parametrize("case", ["mt_tiny", "rgb_tiny", "prerelease_tiny"])
def test_every_ill_shaped_tensor_is_refused(case):
    state_dict = state_dict_of(case)
    for key, value in state_dict.items():
        if not torch.is_tensor(value) or value.ndim == 0:
            continue
        for changed in (torch.cat([value, value]), value[None], value[:0], value.double()):
            with pytest.raises(UserError):
                conversion.to_flax(state_dict | {key: changed}, facts_of(case))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("_dynamics.1.weight", torch.zeros(28, 27), r"_dynamics\.1\.weight .* \[27, 28\]"),
        ("_pi.2.bias", torch.zeros(8, dtype=torch.float16), r"_pi\.2\.bias has dtype"),
        ("_pi.2.bias", torch.zeros(1).expand(8), r"_pi\.2\.bias shows more numbers"),
        ("_pi.2.bias", torch.zeros(8).to_sparse(), r"_pi\.2\.bias is no plain dense"),
        ("_pi.2.bias", "weights", r"_pi\.2\.bias is a str"),
        ("_pi.2.bias", torch.zeros(8, device="meta"), r"_pi\.2\.bias is no plain dense"),
        ("_detach_Qs_params.2.bias", torch.zeros(3, 101), "must be a copy"),
        ("_Qs.params.__batch_size", torch.Size([4]), "__batch_size"),
        ("_Qs.params.__batch_size", None, "__batch_size"),
        ("log_std_min", torch.zeros(3), "log_std_min has shape"),
    ],
)
def test_bad_entries_are_refused_by_name(key, value, message):
    with pytest.raises(UserError, match=message):
        conversion.to_flax(state_dict_of("single_tiny") | {key: value})


def test_masks_must_be_prefixes_and_agree():
    state_dict = state_dict_of("mt_tiny")
    flipped = state_dict["_action_masks"].flip(-1)
    with pytest.raises(UserError, match="_action_masks"):
        conversion.to_flax(state_dict | {"_action_masks": flipped})
    with pytest.raises(UserError, match="masks show action dims"):
        conversion.to_flax(state_dict, architecture.TaskFacts(action_dims=(1, 1, 1, 4)))


def random_state_dict(config):
    """A released-size checkpoint in the current layout, without the cost of drawing it."""
    abstract = jax.eval_shape(WorldModel(config).init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), abstract)
    return conversion.to_torch(zeros, config)


def without_masks(state_dict):
    """The same weights in the flat-Q layout, which has no masks."""
    flat = {}
    for key, value in state_dict.items():
        if key.startswith(("_detach", "log_std", "_action_masks")) or "__" in key:
            continue
        if "Qs" in key:
            prefix = "_target_Qs.params" if key.startswith("_target") else "_Qs.params"
            layer, *name = (
                key.removeprefix("_target_Qs_params.").removeprefix("_Qs.params.").split(".")
            )
            offset = ["weight", "bias", "ln.weight", "ln.bias"].index(".".join(name))
            key = f"{prefix}.{4 * int(layer) + offset}"
        flat[key] = value
    return flat


def multitask_fields(name):
    known = tasks.task_set(name)
    return dict(
        tasks=known.names,
        action_dims=known.action_dims,
        observation_dims=known.observation_dims,
        episode_lengths=known.episode_lengths,
        action_dim=max(known.action_dims),
        observation_shape=(max(known.observation_dims),),
    )


@pytest.mark.parametrize(
    ("name", "size", "fields"),
    [
        ("mt30", 1, dict(task_dim=96)),
        ("mt30", 5, dict(task_dim=64)),
        ("mt30", 19, dict(task_dim=64, latent_dim=512)),
        ("mt80", 5, dict(task_dim=96)),
    ],
)
def test_released_multitask_models_are_recognised(name, size, fields):
    config = model_config(size, **multitask_fields(name), **fields)
    state_dict = random_state_dict(config)
    assert conversion.to_flax(state_dict)[1] == config
    assert conversion.to_flax(without_masks(state_dict))[1] == config


@pytest.mark.parametrize("size", [1, 5, 19])
def test_sizes_of_the_table_are_recognised(size):
    config = model_config(size, action_dim=6, observation_shape=(24,))
    assert conversion.to_flax(random_state_dict(config))[1] == config


def test_large_sizes_are_recognised_from_shapes():
    for size in MODEL_SIZES:
        config = model_config(size, action_dim=6, observation_shape=(24,), episodic=size == 48)
        abstract = jax.eval_shape(WorldModel(config).init, jax.random.key(0))
        leaves, _ = jax.tree_util.tree_flatten_with_path(abstract)
        shapes = {tuple(key.key for key in path): leaf.shape for path, leaf in leaves}
        inferred = architecture.infer(
            shapes,
            masks=None,
            log_std=(-10, 2),
            symlog_observations=False,
            facts=architecture.TaskFacts(),
        )
        assert inferred == config


def test_contradicted_size_names_the_real_one():
    with pytest.raises(UserError, match="size 5 was asked for, but the weights show size 1"):
        load_torch(checkpoint_path("single_1m"), model_size=5)
    with pytest.raises(UserError, match="no size of the table"):
        load_torch(checkpoint_path("single_tiny"), model_size=5)
    assert load_torch(checkpoint_path("single_1m"), model_size=1)[1].model_size == 1


def test_task_facts_fill_the_configuration():
    path = checkpoint_path("single_tiny")
    assert load_torch(path)[1].tasks == ("",)
    known = load_torch(path, task="mw-reach")[1]
    assert (known.tasks, known.episode_lengths) == (("mw-reach",), (100,))
    assert known.discounts == (0.95,)
    other = load_torch(path, task="humanoid-run", episode_lengths=[1000])[1]
    assert (other.tasks, other.episode_lengths) == (("humanoid-run",), (1000,))
    config = load_torch(
        checkpoint_path("mt_tiny"), task="a,b,c,d", episode_lengths=[25, 100, 500, 1000]
    )[1]
    assert config.tasks == ("a", "b", "c", "d")
    np.testing.assert_allclose(config.discounts, [0.95, 0.95, 0.99, 0.995])


@pytest.mark.parametrize(
    ("case", "facts", "message"),
    [
        ("legacy_mt_tiny", {}, "give --action_dims"),
        ("legacy_mt_tiny", {"action_dims": (1, 2)}, "2 action dims given for 4 tasks"),
        ("legacy_mt_tiny", {"action_dims": (1, 2, 3, 9)}, "must lie in 1..4"),
        ("mt_tiny", {"task": "mt30"}, "not of mt30"),
        ("mt_tiny", {"task": "a,b"}, "names 2 tasks; the checkpoint has 4"),
        ("mt_tiny", {"episode_lengths": (1, 2)}, "2 episode lengths given for 4 tasks"),
        ("single_tiny", {"task": "mt80"}, "single task, not of mt80"),
        ("single_tiny", {"action_dims": (3,)}, "single task of action dim 4"),
    ],
)
def test_facts_that_do_not_fit_are_refused(case, facts, message):
    with pytest.raises(UserError, match=message):
        load_torch(checkpoint_path(case), **facts)


def test_a_single_task_of_a_set_may_be_named_and_others_not():
    config = ModelConfig(**multitask_fields("mt30"), task_dim=8, latent_dim=16, mlp_dim=8)
    state_dict = random_state_dict(config)
    facts = architecture.TaskFacts(task="walker-run")
    assert conversion.to_flax(state_dict, facts)[1].tasks == config.tasks
    with pytest.raises(UserError, match="walker-run"):
        conversion.to_flax(state_dict, architecture.TaskFacts(task="walker-runn"))


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("walker-run-1.pt", "walker-run"),
        ("humanoid-run-3.pt", "humanoid-run"),
        ("mt30-5M.pt", "mt30"),
        ("mt80-317M.pt", "mt80"),
        ("checkpoint.pt", ""),
        ("tdmpc2_5m.pt", ""),
        ("walker-run-4.pt", ""),
    ],
)
def test_released_file_names_tell_the_task(name, task):
    assert task_of_file_name(name) == task


@pytest.mark.parametrize("case", TINY + OLD)
def test_torch_and_flax_agree(case):
    params, config = load(case)
    report = verify.parity_report(state_dict_of(case), params, config)
    verify.require_parity(report)
    modules = {row.module for row in report}
    assert {"encoder", "dynamics", "reward", "policy mean", "policy log_std"} <= modules
    assert ("termination" in modules) == config.episodic
    assert ("task_embedding" in modules) == config.multitask
    assert all(row.relative < 5e-6 for row in report)


@pytest.mark.parametrize("case", TINY)
def test_parity_notices_every_changed_parameter(case, monkeypatch):
    params, config = load(case)
    state_dict = state_dict_of(case)
    # Only the torch side changes: the slower Flax side is computed once.
    inputs = verify._random_inputs(config, np.random.default_rng(0))
    outputs = verify._flax_outputs(params, config, inputs)
    monkeypatch.setattr(verify, "_flax_outputs", lambda *_: outputs)
    modules = set()
    for key, value in state_dict.items():
        if key.startswith(("_detach", "log_std", "_action_masks")) or not torch.is_tensor(value):
            continue
        if key == "_encoder.rgb.8.bias":
            continue  # the same for all latents that one softmax of SimNorm sees: it cancels
        changed = value + 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        report = verify.parity_report(state_dict | {key: changed}, params, config)
        beyond = {row.module for row in report if not row.within_tolerance}
        assert beyond, key
        modules |= beyond
    assert modules == {row.module for row in report}


def test_parity_refuses_nan():
    params, config = load("single_tiny")
    broken = params | {"dynamics": jax.tree.map(lambda leaf: leaf * np.nan, params["dynamics"])}
    report = verify.parity_report(state_dict_of("single_tiny"), broken, config)
    with pytest.raises(UserError, match="disagree .* dynamics"):
        verify.require_parity(report)
