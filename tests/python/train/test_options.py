# SPDX-License-Identifier: Apache-2.0
"""Options stand in groups, and the command line spells them flat."""

from __future__ import annotations

from typing import Any

import pytest

from lightwam import cli
from lightwam.train.options import flat_options

VAE = (
    "--data a b --out o --cache c --episodes 0-9 all --tasks t --max-episodes 3 --steps 5 --batch 6 "
    "--clip-every 7 --clip-batch 8 "
    "--peak-learning-rate 0.1 --warmup-steps 9 --kl-weight 0.2 --foreground-weight 0.3 --localisation-weight 0.4 "
    "--held-out 0.5 --device cuda:1 --seed 10 --threads 11 --save-every 12"
)
POLICY = (
    "--recipe nano --data a b --vae v --out o --cache c --init i --steps 1 --stop-after 2 --max-episodes 3 "
    "--episodes 0-9,11 "
    "--batch 4 --latents l m --texts t --statistics s --resample stride --sharding fsdp --timeout 1.5 --epochs 2 "
    "--accumulation 3 --warmup-ratio 0.1 --decay constant --eps 1e-7 --lambda-video 0.2 --lambda-action 0.3 "
    "--prefix-steps 4 --prefix-weight 0.5 --tail-weight 0.6 --precision float32 --sample-stride 2 --variants 3 "
    "--workers 4 --prefetch 5 --eval-every 6 --keep-last 7 --keep-best loss --video-samples 8 --sampling-steps 9 "
    "--wandb p --brightness 0.1 --contrast 0.2 --saturation 0.3 --hue 0.4 --noise 0.5 --shift 0.1 "
    "--allow-changed a b --video-batch 5 --peak-learning-rate 0.1 --warmup-steps 6 --weight-decay 0.2 "
    "--gradient-clip 0.3 --ema-decay 0.4 --state-dropout 0.5 --localisation-weight 0.6 --held-out 0.7 --device "
    "cuda:1 --attention sdpa --future-stride 7 --seed 8 --threads 9 --log-every 10 --save-every 11 --rollout-every 12 "
    "--rollout-trials 13 --rollout-sim s --rollout-suite t --rollout-states shifted --rollout-protocol p "
    "--rollout-precision bf16 --rollout-threads 2 --rollout-minutes 1.5"
)
BLIND = (
    "--data a b --out o --episodes 4 --steps 1 --batch 2 "
    "--hidden 3 --layers 4 --peak-learning-rate 0.1 --weight-decay 0.2 "
    "--replan-steps 5 --seed 6 --threads 7"
)


@pytest.mark.parametrize(("verb", "options"), [("vae", VAE), ("policy", POLICY), ("blind", BLIND)])
def test_every_option_has_its_name_alone(verb: str, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Any] = []
    monkeypatch.setattr("lightwam.cli.train.main", lambda args: parsed.append(args) or 0)
    assert cli.main(["train", verb, *options.split()]) == 0
    values = dict(flat_options(parsed[0]))
    for option in options.split("--")[1:]:
        name, *words = option.split()
        value = values[name.replace("-", "_")]
        given = words if isinstance(value, tuple) else words[0]
        assert value == (tuple(map(type(value[0]), given)) if isinstance(value, tuple) else type(value)(given)), name


@pytest.mark.parametrize("verb", ["vae", "policy", "blind"])
def test_every_option_is_documented(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", verb, "--help"])
    shown = capsys.readouterr().out
    assert "--config" in shown and "schedule options" in shown and "--schedule." not in shown
