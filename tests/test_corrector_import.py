"""Correctors and data of the public PyTorch implementation: parity, and strictness by name."""

import jax.numpy as jnp
import numpy as np
import pytest

from models import tiny_agent
from specmpc_jax.correctors import registry
from specmpc_jax.correctors.corrector import Corrector
from specmpc_jax.errors import UserError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from converters import corrector_data_import, corrector_import  # noqa: E402

AGENT = tiny_agent()
LATENT, ACTION, HIDDEN, WINDOW, TOKEN, HEADS = 16, 2, 12, 3, 8, 2


def mlp(inputs, layers=2):
    parts = []
    for _ in range(layers - 1):
        parts += [nn.Linear(inputs, HIDDEN), nn.SiLU()]
        inputs = HIDDEN
    return nn.Sequential(*parts, nn.Linear(inputs, HIDDEN))


class Torch(nn.Module):
    """Modules under the published names, to make state dicts; `forward` by hand below."""

    def __init__(self, kind, layers=2):
        super().__init__()
        torch.manual_seed(0)
        towers = {"a": ACTION}
        context = HIDDEN * 3
        if kind == "temporal":
            context = TOKEN
            self.input_proj = nn.Linear(3 * LATENT + ACTION, TOKEN)
            self.pos_emb = nn.Parameter(torch.randn(WINDOW, TOKEN))
            layer = nn.TransformerEncoderLayer(TOKEN, HEADS, 20, activation="gelu")
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        else:
            towers |= {"real": LATENT, "pred": LATENT, "delta": LATENT}
        towers |= {"u": context + HIDDEN, "g": context + HIDDEN}
        for name, inputs in towers.items():
            setattr(self, f"mlp_{name}", mlp(inputs, layers))
        self.out = nn.Linear(HIDDEN, ACTION)


def save(path, kind, change=None, layers=2, **facts):
    content = {"corrector": Torch(kind, layers).state_dict(), "corrector_type": kind, **facts}
    if change:
        change(content)
    torch.save(content, path)
    return path


def read(path, kind):
    return corrector_import.read(path, HEADS if kind == "temporal" else None)


@pytest.mark.parametrize(("kind", "layers"), [("two_tower", 2), ("two_tower", 4), ("temporal", 2)])
def test_imported_correctors_compute_what_torch_does(tmp_path, kind, layers):
    imported = read(save(tmp_path / "c.pth", kind, layers=layers), kind)
    config = imported.config
    assert config.kind == f"published_{kind}" and config.num_layers == layers
    assert (config.latent_dim, config.action_dim, config.hidden_dim) == (LATENT, ACTION, HIDDEN)
    assert imported.record["parity"] < 1e-5
    # The comparison is no formality: any single weight moves the result.
    state = Torch(kind, layers).state_dict()
    for key in ("mlp_g.0.bias", "out.weight", "mlp_a.2.weight"):
        damaged = {**state, key: state[key] + 0.3}
        assert (
            corrector_import.parity(config, imported.params, damaged) > corrector_import.TOLERANCE
        )
    if kind == "temporal":
        assert (config.history_len, config.token_dim, config.num_blocks) == (WINDOW, TOKEN, 2)
        for key in ("pos_emb", "encoder.layers.1.norm2.bias", "encoder.layers.0.linear1.bias"):
            damaged = {**state, key: state[key] + 0.3}
            assert (
                corrector_import.parity(config, imported.params, damaged)
                > corrector_import.TOLERANCE
            )


def test_the_two_tower_by_hand(tmp_path):
    model = Torch("two_tower")
    imported = read(save(tmp_path / "c.pth", "two_tower"), "two_tower")
    rng = np.random.default_rng(1)
    real, predicted = (torch.tensor(rng.normal(size=LATENT), dtype=torch.float32) for _ in "ab")
    plan = torch.tensor(rng.uniform(-0.5, 0.5, size=ACTION), dtype=torch.float32)
    with torch.no_grad():
        towers = [
            model.mlp_real(real),
            model.mlp_pred(predicted),
            model.mlp_delta(real - predicted),
        ]
        action = model.mlp_a(plan)
        both = torch.cat([*towers, action])
        gate = torch.sigmoid(model.mlp_g(both))
        expected = plan + torch.tanh(model.out(gate * model.mlp_u(both) + (1 - gate) * action))
    context = registry.example_context(imported.config)
    step = context.step.replace(
        z_real=jnp.asarray(real), z_pred=jnp.asarray(predicted), a_plan=jnp.asarray(plan)
    )
    ours = registry.apply(imported.config, imported.params, context.replace(step=step), clip=False)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def without(key):
    return lambda content: content["corrector"].pop(key)


def renamed(content):
    content["corrector"]["mlp_v.0.weight"] = content["corrector"].pop("mlp_u.0.weight")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("mlp_g.2.bias"), "missing keys mlp_g.2.bias"),
        (renamed, "unknown keys mlp_v.0.weight; missing keys mlp_u.0.weight"),
        (without("mlp_real.0.weight"), "mlp_real.0.weight"),
        (lambda content: content.pop("corrector"), "holds no 'corrector'"),
        (lambda content: content.update(optimiser={}), "unknown entries.*optimiser"),
        (lambda content: content.update(act_dim=5), r"act_dim 5 \(weights: 2\)"),
        (lambda content: content.update(hparams={"hidden_dim": 99}), "hidden_dim 99"),
        (lambda content: content.update(corrector_type="temporal"), "'temporal'"),
        (
            lambda content: content["corrector"].update({"out.bias": torch.zeros(7)}),
            "out.bias has shape",
        ),
        (lambda content: content.update(model_id=Torch), "asks to run"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(tmp_path, change, said):
    path = save(tmp_path / "c.pth", "two_tower", change)
    with pytest.raises(UserError, match=said) as caught:
        read(path, "two_tower")
    assert "\n" not in str(caught.value)


def data(episodes=3, length=6, window=4):
    """A file of data as that implementation writes it, and the latents it was made of."""
    rng = np.random.default_rng(0)
    rows = episodes * length
    z_real, z_pred = rng.normal(size=(2, rows, LATENT)).astype(np.float32)
    plan, teacher = rng.uniform(-1, 1, size=(2, rows, ACTION)).astype(np.float32)
    features = np.concatenate([z_real, z_pred, z_real - z_pred, plan], axis=-1)
    history = np.zeros((rows, window, features.shape[1]), np.float32)
    for row in range(rows):
        past = features[max(row - window + 1, row // length * length) : row + 1]
        history[row, -len(past) :] = past
    content = {
        "z_real": z_real, "z_pred": z_pred, "a_plan": plan, "a_teacher": teacher,
        "distance": np.linalg.norm(z_real - z_pred, axis=-1), "history_feats": history,
    }  # fmt: skip
    return {name: torch.from_numpy(value) for name, value in content.items()} | {"model_id": "x"}


def test_data_get_episodes_and_a_scale_free_mismatch(tmp_path):
    content = data()
    torch.save(content, tmp_path / "d.pt")
    imported = corrector_data_import.read(tmp_path / "d.pt", AGENT)
    # The first row of each episode has no earlier latent to measure its travel from.
    assert len(imported) == 15 and imported.num_episodes == 3
    np.testing.assert_array_equal(imported["step"], np.tile(np.arange(5), 3))
    np.testing.assert_array_equal(imported["z_real"][0], content["z_real"][1])
    assert (imported["offset"] == 1).all() and imported.teacher == AGENT.fingerprint
    z_real, z_pred = content["z_real"].numpy(), content["z_pred"].numpy()
    expected = np.linalg.norm(z_real[7] - z_pred[7]) / np.linalg.norm(z_real[7] - z_real[6])
    np.testing.assert_allclose(imported["distance"][5], expected, rtol=1e-5)
    index, mask = imported.windows(4)
    assert (imported["episode"][index] == imported["episode"][:, None]).all()

    lists = {k: list(v) if isinstance(v, torch.Tensor) else v for k, v in content.items()}
    lists["a_spec"] = lists.pop("a_plan")
    torch.save(lists, tmp_path / "lists.pt")
    again = corrector_data_import.read(tmp_path / "lists.pt", AGENT)
    np.testing.assert_array_equal(again["a_plan"], imported["a_plan"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("a_teacher"), "lacks the fields a_teacher"),
        (lambda c: c.update(extra=torch.zeros(18)), "unknown fields extra"),
        (lambda c: c.pop("history_feats"), "give --episode_length"),
        (lambda c: c.update(z_pred=torch.zeros(18, 5)), "z_pred has shape"),
        (lambda c: c.update(history_feats=c["history_feats"][3:]), "history_feats has shape"),
    ],
)
def test_data_that_do_not_fit_are_refused_by_name(tmp_path, change, said):
    content = data()
    change(content)
    torch.save(content, tmp_path / "d.pt")
    with pytest.raises(UserError, match=said):
        corrector_data_import.read(tmp_path / "d.pt", AGENT)


def test_an_imported_corrector_is_stored_with_where_it_comes_from(tmp_path):
    imported = read(save(tmp_path / "c.pth", "temporal", model_size="5m"), "temporal")
    corrector = Corrector(imported.config, imported.params, AGENT.fingerprint, {}, imported.record)
    corrector.save(str(tmp_path / "corrector"))
    loaded = Corrector.load(str(tmp_path / "corrector"))
    assert loaded.fingerprint == corrector.fingerprint and loaded.config == imported.config
    assert loaded.record["facts"] == {"corrector_type": "temporal", "model_size": "5m"}
    loaded.check_teacher(AGENT.fingerprint, AGENT.config)
