"""The training loop: the same weights after a kill, an early stop, settings that may not change midway."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.training.loop import LoopConfig, fit


class Line:
    """y = 2x + 1 under noise of the examples' own; dropout, so that torch's chance matters too."""

    n_examples = 50

    def __init__(self, dies_at=None):
        self.dies_at, self.n_losses = dies_at, 0

    def make_net(self):
        return nn.Sequential(nn.Linear(1, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 1))

    def loss(self, net, indices, random):
        self.n_losses += 1
        if self.n_losses == self.dies_at:
            raise KeyboardInterrupt
        x = indices.float()[:, None] / 25 - 1
        noisy = x + torch.from_numpy(random.normal(0, 0.05, x.shape)).float()
        return ((net(noisy) - (2 * x + 1)) ** 2).mean()

    def validate(self, net):
        x = torch.linspace(-1, 1, 20)[:, None]
        with torch.no_grad():
            return {"score": -float(((net(x) - (2 * x + 1)) ** 2).mean())}


SETTINGS = LoopConfig(n_epochs=6, batch_size=8, accumulate=2, checkpoint_steps=3, ema_decay=0.9)


def weights(fitted):
    return torch.cat([v.flatten().double() for v in fitted.net.state_dict().values()])


def test_killed_in_mid_epoch_and_begun_again_it_ends_with_the_same_weights(tmp_path):
    quiet = fit(Line(), SETTINGS, tmp_path / "quiet")
    with pytest.raises(KeyboardInterrupt):
        fit(Line(dies_at=45), SETTINGS, tmp_path / "killed")
    assert (tmp_path / "killed" / "checkpoint.pt").is_file()
    again = fit(Line(), SETTINGS, tmp_path / "killed")
    assert torch.equal(weights(quiet), weights(again))
    assert quiet.measures == again.measures


def test_it_learns_and_says_how_well(tmp_path):
    told = []
    settings = SETTINGS.model_copy(update={"n_epochs": 60, "learning_rate": 0.02})
    fitted = fit(Line(), settings, tmp_path, tell=lambda step, found: told.append((step, found)))
    assert fitted.measures["score"] > -0.1
    assert max(found["score"] for _, found in told if "score" in found) == fitted.measures["score"]


def test_an_early_stop_stays_stopped(tmp_path):
    class Worse(Line):
        def __init__(self):
            super().__init__()
            self.n_looks = 0

        def validate(self, net):  # noqa: ARG002
            self.n_looks += 1
            return {"score": -self.n_looks}

    settings = SETTINGS.model_copy(update={"patience_epochs": 2})
    first = fit(Worse(), settings, tmp_path)
    assert first.n_steps == 3 * 6
    task = Worse()
    again = fit(task, settings, tmp_path)
    assert task.n_losses == 0
    assert torch.equal(weights(first), weights(again))


def test_a_folder_with_other_settings_is_refused(tmp_path):
    fit(Line(), SETTINGS, tmp_path)
    with pytest.raises(ValueError, match="batch_size was 8, is 4"):
        fit(Line(), SETTINGS.model_copy(update={"batch_size": 4}), tmp_path)


def test_a_loss_that_is_no_number_ends_it_with_the_step(tmp_path):
    class Broken(Line):
        def loss(self, net, indices, random):
            return super().loss(net, indices, random) * np.nan

    with pytest.raises(ValueError, match="step 0: the loss is nan"):
        fit(Broken(), SETTINGS, tmp_path)
