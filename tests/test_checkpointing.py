"""Directories of weights: complete, strict, atomic."""

import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from specmpc_jax import checkpointing
from specmpc_jax.config import ModelConfig
from specmpc_jax.errors import UserError
from specmpc_jax.world_model import WorldModel

CONFIG = ModelConfig(
    action_dim=2,
    observation_shape=(5,),
    enc_dim=8,
    mlp_dim=8,
    latent_dim=16,
    num_q=2,
    task_dim=4,
    tasks=("first", "second"),
    action_dims=(1, 2),
    episode_lengths=(100, 500),
)


@pytest.fixture(scope="module")
def params():
    return jax.jit(WorldModel(CONFIG).init)(jax.random.key(0))


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_model_comes_back_with_its_configuration(params, tmp_path):
    checkpointing.save_model(tmp_path / "model", params, CONFIG, {"sha256": "ab", "steps": 3})
    saved = checkpointing.load_model(tmp_path / "model")
    assert saved.config == CONFIG
    assert saved.metadata == {"sha256": "ab", "steps": 3}
    assert_equal(saved.params, params)
    assert os.listdir(tmp_path) == ["model"]


def test_refuses_to_overwrite_unless_asked(params, tmp_path):
    path = tmp_path / "model"
    checkpointing.save_model(path, params, CONFIG)
    with pytest.raises(UserError, match="exists already"):
        checkpointing.save_model(path, params, CONFIG)
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    checkpointing.save_model(path, other, CONFIG, overwrite=True)
    assert_equal(checkpointing.load_model(path).params, other)
    assert os.listdir(tmp_path) == ["model"]


def test_failed_save_leaves_the_old_one(params, tmp_path):
    path = tmp_path / "model"
    checkpointing.save_model(path, params, CONFIG)
    with pytest.raises(ValueError):
        checkpointing.save_tree(path, {"a": np.array([object()])}, {}, overwrite=True)
    assert_equal(checkpointing.load_model(path).params, params)
    assert os.listdir(tmp_path) == ["model"]


def test_sharded_arrays_load_without_their_devices(params, tmp_path):
    devices = np.array(jax.devices()[:4])
    if len(devices) < 4:
        pytest.skip("needs four devices")
    mesh = Mesh(devices, ("data",))
    table = jnp.arange(32.0).reshape(8, 4)
    tree = {
        "split": jax.device_put(table, NamedSharding(mesh, PartitionSpec("data"))),
        "copied": jax.device_put(table, NamedSharding(mesh, PartitionSpec())),
    }
    checkpointing.save_tree(tmp_path / "tree", tree, {})
    loaded = checkpointing.load_tree(tmp_path / "tree", jax.eval_shape(lambda: tree))
    assert all(isinstance(leaf, np.ndarray) for leaf in loaded.values())
    assert_equal(loaded, {"split": table, "copied": table})


def renamed(params):
    return {("dynamix" if k == "dynamics" else k): v for k, v in params.items()}


def reshaped(params):
    return params | {"task_embedding": jnp.zeros((2, 5))}


def retyped(params):
    return params | {"task_embedding": params["task_embedding"].astype(jnp.bfloat16)}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (renamed, ["missing: dynamics/layer_0/bias", "unknown: dynamix/layer_0/bias"]),
        (reshaped, ["task_embedding is [2, 5] float32, not [2, 4] float32"]),
        (retyped, ["task_embedding is [2, 4] bfloat16, not [2, 4] float32"]),
    ],
)
def test_wrong_trees_are_refused_by_name(params, tmp_path, change, names):
    checkpointing.save_model(tmp_path / "model", change(params), CONFIG)
    with pytest.raises(UserError) as error:
        checkpointing.load_model(tmp_path / "model")
    for name in names:
        assert name in str(error.value)


def test_another_kind_is_refused(params, tmp_path):
    checkpointing.save_tree(tmp_path / "tree", {"a": np.zeros(2)}, {"kind": "corrector"})
    with pytest.raises(UserError, match="holds a corrector, not a world model"):
        checkpointing.load_model(tmp_path / "tree")


def test_unknown_configuration_field_is_refused(params, tmp_path):
    record = {"kind": checkpointing.WORLD_MODEL, "config": {"action_dimension": 2}, "metadata": {}}
    checkpointing.save_tree(tmp_path / "model", params, record)
    with pytest.raises(UserError, match="action_dimension"):
        checkpointing.load_model(tmp_path / "model")


def test_missing_and_foreign_places_are_described(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"holds notes\.txt"):
        checkpointing.load_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no checkpoint of this library; it holds notes\.txt"):
        checkpointing.load_model(tmp_path)
    with pytest.raises(UserError, match="it is a file"):
        checkpointing.load_model(tmp_path / "notes.txt")


def lose(file):
    file.unlink()


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [lose, truncate, flip_a_bit])
def test_every_damaged_file_is_noticed(params, tmp_path, damage, capfd):
    path = tmp_path / "model"
    checkpointing.save_model(path, params, CONFIG)
    stored = [file for file in path.rglob("*") if file.is_file() and file.stat().st_size > 1]
    assert len(stored) > 4
    for file in stored:
        content = file.read_bytes()
        damage(file)
        with pytest.raises(UserError, match=re.escape(str(path))) as error:
            checkpointing.load_model(path)
        assert "\n" not in str(error.value)
        file.write_bytes(content)
    assert_equal(checkpointing.load_model(path).params, params)
    assert capfd.readouterr().err == ""


def test_fingerprint_depends_on_weights_alone(params):
    reversed_order = dict(reversed(params.items()))
    numpy_params = jax.tree.map(np.asarray, reversed_order)
    fingerprint = checkpointing.fingerprint(params)
    assert re.fullmatch(r"[0-9a-f]{64}", fingerprint)
    assert checkpointing.fingerprint(numpy_params) == fingerprint
    columns_first = jax.tree.map(np.asfortranarray, numpy_params)
    assert checkpointing.fingerprint(columns_first) == fingerprint


def test_fingerprint_sees_values_names_shapes_and_types():
    base = {"a": np.zeros(4, np.float32)}
    others = [
        {"a": np.array([0, 0, 0, 1e-45], np.float32)},
        {"b": np.zeros(4, np.float32)},
        {"a": np.zeros((2, 2), np.float32)},
        {"a": np.zeros(4, np.int32)},
        {"a": {"a": np.zeros(4, np.float32)}},
    ]
    prints = {checkpointing.fingerprint(tree) for tree in [base, *others]}
    assert len(prints) == 1 + len(others)


def test_what_the_disk_has_no_room_for_is_not_begun(tmp_path, monkeypatch):
    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk._replace(free=7_000_000))
    with pytest.raises(UserError, match=r"8\.0 MB are needed and 7\.0 MB free"):
        checkpointing.save_tree(tmp_path / "model", {"a": np.zeros(1_000_000)}, {})
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk._replace(total=0, free=0))
    checkpointing.save_tree(tmp_path / "model", {"a": np.zeros(1_000_000)}, {})  # not told
