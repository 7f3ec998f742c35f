"""Writes the chunk file that README.md describes, with whatever tensordict is installed."""

import sys

import torch
from tensordict import TensorDict

EPISODES, ROWS = 4, 12
e = torch.arange(EPISODES).reshape(-1, 1, 1)
t = torch.arange(ROWS).reshape(1, -1, 1)
action = ((torch.arange(6) + t) / 100).expand(EPISODES, ROWS, 6).clone()
reward = (e + t)[..., 0].float()
action[:, 0], reward[:, 0] = torch.nan, torch.nan
entries = {
    "obs": (e + t / 100 + torch.arange(24) / 10000).float(),
    "action": action.float(),
    "reward": reward,
    "task": (7 * e).expand(EPISODES, ROWS, 1)[..., 0].to(torch.int32).clone(),
}
torch.save(TensorDict(entries, batch_size=(EPISODES, ROWS)), sys.argv[1])
