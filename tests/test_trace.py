"""Traces tell what happened, and their pages stand alone."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.support import trace_page
from models import ToyEnvironment, tiny_agent, toy_batch
from specmpc_jax.envs.batch import EnvironmentBatch
from specmpc_jax.errors import UserError
from specmpc_jax.evaluation.trace import trace_episode

KEY = jax.random.key(0)
SEED = 50
ACCEPT, REPLAN = (6.0, 5.0), (30.0, 25.0)
FACTS = {
    "task": "toy",
    "variant": "3_step_refine",
    "exec_horizon": 3,
    "corrector": "refine",
    "env_seed": SEED,
    "mismatch": "relative",
    "plans": True,
}


class Darkness(ToyEnvironment):
    """A toy whose pictures fail from the third on."""

    def render(self, height=8, width=8):
        if self._time >= 3:
            raise UserError("cannot render: no display")
        return super().render(height, width)


class Page(HTMLParser):
    """Collects a page's title, scripts and attributes as a browser would find them."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.attributes, self._open = {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        self._open = dict(attrs).get("id") or tag
        self.texts.setdefault(tag, []).append("")

    def handle_data(self, data):
        self.texts.setdefault(self._open, []).append(data)

    def script(self, name):
        return json.loads("".join(self.texts[name]))


@pytest.fixture(scope="module")
def controller():
    return tiny_agent().controller(3, "refine", tau_accept=ACCEPT, tau_replan=REPLAN)


@pytest.fixture(scope="module")
def trace(controller):
    return trace_episode(controller, toy_batch(1, length=40), SEED, KEY, frame_size=16)


def test_a_trace_is_what_happened(controller, trace):
    environment = ToyEnvironment(length=40)
    observation = environment.reset(SEED)
    state = controller.initial_state(jax.random.fold_in(KEY, SEED))
    plan, seen = None, set()
    for t in range(40):
        due = int(state.offset)
        action, state, info = controller.act(observation, state)
        transition = environment.step(np.asarray(action))
        observation = transition.observation
        judged = not info.block_end
        by_mismatch = bool(info.outcome == 2 and judged)
        expected = {
            "outcome": info.outcome,
            "decision": info.decision,
            "block_end": info.block_end,
            "offset": info.offset,
            "mismatch": info.mismatch if judged else np.nan,
            "tau_accept": np.float32(ACCEPT[due - 1]) if judged else np.nan,
            "tau_replan": np.float32(REPLAN[due - 1]) if judged else np.nan,
            "planned": info.planned.a_plan,
            "dropped": plan[due] if by_mismatch else np.full(2, np.nan),
            "action": action,
            "reward": transition.reward,
        }
        for name, value in expected.items():
            np.testing.assert_array_equal(getattr(trace, name)[t], value, err_msg=f"{name} {t}")
        assert trace.frames[t].shape == (16, 16, 3) and (trace.frames[t] == t + 1).all()
        plan = np.array(state.block.actions)
        seen.add((int(info.outcome), by_mismatch))
    assert seen == {(0, False), (1, False), (2, False), (2, True)}, "the toy must show every kind"
    changed = (trace.planned != trace.action).any(1)
    assert changed[trace.outcome == 1].any() and not changed[trace.outcome != 1].any()
    assert trace.episode.episode_return == pytest.approx(trace.columns()["return"][-1])
    assert trace.episode.planner_calls == (trace.outcome == 2).sum()
    assert len(trace.outcome) == len(trace.frames) == trace.episode.length == 40


def test_an_episode_is_cut_off_and_needs_one_lane(controller):
    short = trace_episode(
        controller, toy_batch(1, length=40), SEED, KEY, max_steps=5, frame_size=None
    )
    assert short.episode.length == len(short.outcome) == 5
    assert not short.frames and short.no_frames
    with pytest.raises(UserError, match="one environment, got 2"):
        trace_episode(controller, toy_batch(2), SEED, KEY)


def test_a_machine_that_cannot_render_gets_the_page_without_pictures(controller):
    with EnvironmentBatch([Darkness(length=40)]) as environments:
        dark = trace_episode(controller, environments, SEED, KEY, max_steps=6)
    assert dark.frames == [] and dark.no_frames == "cannot render: no display"
    assert len(dark.outcome) == 6
    frames = Page(trace_page.page_text(dark, FACTS)).script("trace-frames")
    assert frames == {"stride": 1, "missing": "cannot render: no display", "jpeg": []}


def test_page_and_table_hold_the_numbers(trace, tmp_path):
    page_path, table_path = trace_page.write_trace(tmp_path / "sub" / "a.html", trace, FACTS)
    assert sorted(page_path.parent.iterdir()) == [table_path, page_path]
    data = Page(page_path.read_text(encoding="utf-8")).script("trace-data")
    with table_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and data["action_dim"] == 2
    for name, values in trace.columns().items():
        in_page, in_table = data["columns"][name], [row[name] for row in rows]
        if values.dtype.kind == "f":
            in_page = [np.nan if value is None else float(value) for value in in_page]
            in_table = [float(value or "nan") for value in in_table]
        np.testing.assert_array_equal(in_page, values, err_msg=name)
        np.testing.assert_array_equal(in_table, values.astype(np.asarray(in_table).dtype))
    assert {"planned_1", "executed_0", "dropped_0", "return", "tau_replan"} <= set(rows[0])
    assert data["facts"]["planner_calls"] == trace.episode.planner_calls
    assert data["facts"]["return"] == trace.episode.episode_return


def test_infinite_thresholds_are_kept(trace):
    text = trace_page.embedded_json({"tau_replan": np.array([np.nan, np.inf, 0.5], np.float32)})
    assert text == '{"tau_replan":[null,"inf",0.5]}'


def test_the_page_needs_nothing_else(trace):
    text = trace_page.page_text(trace, FACTS)
    attributes = dict(Page(text).attributes)
    assert not {"src", "href", "srcset", "action", "poster"} & set(attributes)
    assert "default-src 'none'" in text
    assert not re.search(r"https?:|//[a-z]+\.|url\(|@import|fetch\(|XMLHttp|WebSocket", text)
    assert "@@" not in text


def test_hostile_strings_stay_text(trace):
    hostile = "</script><script>alert(1)</script><!-- @@DATA@@ & \u2028 \\u003c"
    plain = Page(trace_page.page_text(trace, FACTS))
    text = trace_page.page_text(trace, {**FACTS, "task": hostile, "note": [hostile]})
    page = Page(text)
    assert len(page.texts["script"]) == len(plain.texts["script"])
    assert "alert(1)</script>" not in text and "<!-- @@" not in text
    facts = page.script("trace-data")["facts"]
    assert facts["task"] == hostile and facts["note"] == [hostile]
    assert "".join(page.texts["title"]).startswith(hostile)


def test_pictures_fit_their_budget():
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 256, (24, 64, 64, 3)).astype(np.uint8))
    sizes = {}
    for budget in (10**6, 60_000, 15_000):
        pictures, stride = trace_page.encode_frames(frames, budget)
        files = [base64.b64decode(picture) for picture in pictures]
        assert sum(map(len, files)) <= budget and len(files) == -(-24 // stride)
        with Image.open(io.BytesIO(files[0])) as image:
            assert image.format == "JPEG" and image.size == (64, 64)
        sizes[budget] = (stride, len(files[0]))
    assert sizes[10**6][0] == 1 and sizes[15_000][0] > 1
    assert sizes[60_000][1] < sizes[10**6][1]
    assert trace_page.encode_frames([]) == ([], 1)
