# SPDX-License-Identifier: Apache-2.0
"""Make example files laid out as well-known programs lay out theirs.

Run by hand: python tests/data/make_frameworks.py.  The programs themselves are not
needed: classes of their names stand in for theirs.
"""

from __future__ import annotations

import argparse
import collections
import copy
import datetime
import enum
import pathlib
import sys
import types
from typing import Any

import numpy as np
import torch
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from describe import describe, write  # noqa: E402

FOLDER = HERE / "kinds" / "frameworks"
ROWS: list[dict[str, Any]] = []


def keep(name: str, obj: Any, auto: Any, **facts: Any) -> None:
    """`auto`: what root="auto" finds, or the names between which it cannot choose."""
    torch.save(obj, FOLDER / name)
    said = auto if isinstance(auto, list) else describe(auto)
    ROWS.append({"file": name, "object": describe(obj), "auto": said, **facts})


def stand_in(module: str, name: str, *bases: Any, **content: Any) -> Any:
    """A class of that name, where pickle will find it."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        path = ".".join(parts[:end])
        sys.modules.setdefault(path, types.ModuleType(path))
    made = type(name, bases or (object,), {"__module__": module, **content})
    setattr(sys.modules[module], name, made)
    return made


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def steps(model: nn.Module) -> tuple[Any, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])
    model(torch.ones(1, 1, 2, 2)).sum().backward()
    optimizer.step()
    return optimizer, schedule


def ultralytics() -> None:
    convolution = stand_in("ultralytics.nn.modules.conv", "Conv", nn.Module)
    model_class = stand_in("ultralytics.nn.tasks", "DetectionModel", nn.Module)
    block = convolution()
    block.conv, block.bn = nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2)
    block.act = nn.SiLU()
    model = model_class()
    model.yaml, model.save, model.names = {"nc": 2}, [1], {0: "cat", 1: "dog"}
    model.model = nn.Sequential(block)
    model.stride = torch.tensor([8.0])
    model.half()
    whole = {
        "epoch": -1, "best_fitness": None, "model": None, "ema": model, "updates": 7,
        "optimizer": None, "scaler": None,
        "train_args": {"lr0": 0.01, "imgsz": 640, "augment": True},
        "train_metrics": {"fitness": np.float64(0.5)}, "train_results": {"epoch": [1, 2]},
        "date": datetime.datetime(2024, 2, 29).isoformat(), "version": "8.3.0",
        "license": "AGPL-3.0", "docs": "https://docs.example",
    }  # fmt: skip
    keep("ultralytics.pt", whole, model)
    old = {"epoch": 1, "best_fitness": np.array([0.5]), "model": model, "optimizer": None}
    keep("yolov5.pt", old, model)
    twin = {"epoch": 1, "model": model, "ema": copy.deepcopy(model), "optimizer": None}
    keep("yolov5_two.pt", twin, ["model", "ema"])


def lightning() -> None:
    model = network()
    optimizer, schedule = steps(model)
    attributes = stand_in("pytorch_lightning.utilities.parsing", "AttributeDict", dict)
    stopping = stand_in("pytorch_lightning.callbacks.early_stopping", "EarlyStopping")
    weights = collections.OrderedDict(("net." + k, v) for k, v in model.state_dict().items())
    new = {
        "epoch": 2, "global_step": 10, "pytorch-lightning_version": "2.6.0",
        "state_dict": weights,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 2}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [schedule.state_dict()],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.5, "path": pathlib.PurePosixPath("runs/1")},
    }  # fmt: skip
    keep("lightning.ckpt", new, weights)
    old = {
        "epoch": 2, "global_step": 10, "pytorch-lightning_version": "1.4.9",
        "callbacks": {stopping: {"wait_count": 1, "best_score": torch.tensor(0.25)}},
        "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [],
        "state_dict": model.state_dict(),
        "hparams_name": "hparams", "hyper_parameters": attributes(lr=0.5),
    }  # fmt: skip
    keep("lightning_old.ckpt", old, old["state_dict"], odd_keys=True)


def fairseq() -> None:
    model = network()
    optimizer, _ = steps(model)
    meter = stand_in("fairseq.meters", "AverageMeter")()
    meter.val, meter.sum, meter.count = 0.5, 1.0, 2
    args = argparse.Namespace(arch="transformer", lr=[0.5], share=True)
    whole = {
        "args": args, "cfg": None, "model": model.state_dict(),
        "criterion": None,
        "optimizer_history": [{"optimizer_name": "SGD", "num_updates": 3}],
        "task_state": {}, "extra_state": {"epoch": 1, "train_meters": {"loss": meter}},
        "last_optimizer_state": optimizer.state_dict(),
    }  # fmt: skip
    keep("fairseq.pt", whole, whole["model"])


def timm() -> None:
    model = network()
    optimizer, _ = steps(model)
    whole = {
        "epoch": 5, "arch": "resnet", "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(), "version": 2,
        "args": argparse.Namespace(model="resnet", lr=0.5),
        "amp_scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3},
        "metric": 71.5,
    }  # fmt: skip
    keep("timm.pth.tar", whole, whole["state_dict"])
    whole = {**whole, "state_dict_ema": model.state_dict()}
    keep("timm_average.pth.tar", whole, ["state_dict", "state_dict_ema"])


def mmcv() -> None:
    model = network()
    optimizer, schedule = steps(model)
    history = stand_in("mmengine.logging.history_buffer", "HistoryBuffer")
    buffer = history()
    buffer._log_history, buffer._max_length = np.array([0.5, 0.25]), 10
    whole = {
        "meta": {"epoch": 3, "iter": 30, "cfg": "model = dict()", "time": "20240229"},
        "state_dict": model.state_dict(),
        "message_hub": {"log_scalars": {"train/loss": buffer}, "runtime_info": {"seed": 1}},
        "optimizer": optimizer.state_dict(),
        "param_schedulers": [schedule.state_dict()],
    }  # fmt: skip
    keep("mmengine.pth", whole, whole["state_dict"])


def transformers() -> None:
    model = network()
    optimizer, _ = steps(model)
    kind = stand_in("transformers.trainer_utils", "IntervalStrategy")
    kind = enum.Enum(
        "IntervalStrategy", {"NO": "no", "STEPS": "steps"}, module="transformers.trainer_utils"
    )
    sys.modules["transformers.trainer_utils"].IntervalStrategy = kind
    arguments = stand_in("transformers.training_args", "TrainingArguments")()
    arguments.learning_rate, arguments.strategy = 0.5, kind.STEPS
    arguments.device = torch.device("cuda", 0)
    keep("training_args.bin", arguments, [])
    keep("optimizer.pt", optimizer.state_dict(), [])
    state = {"python": (3, (1, 2, 3), None), "cpu": torch.arange(8, dtype=torch.uint8)}
    state["numpy"] = ("MT19937", np.arange(4, dtype="u4"), 624, 0, 0.0)
    keep("rng_state.pth", state, state)
    keep("pytorch_model.bin", model.state_dict(), model.state_dict())


def configured() -> None:
    """As OmegaConf writes: nodes that know their parents."""
    model = network()
    node = stand_in("omegaconf.nodes", "AnyNode")
    config = stand_in("omegaconf.dictconfig", "DictConfig")
    root, leaf = config(), node()
    leaf._val, leaf._parent = 0.5, root
    root._content, root._parent = {"lr": leaf}, None
    whole = {"model_state_dict": model.state_dict(), "config": root}
    keep("omegaconf.pth", whole, whole["model_state_dict"])


def deepspeed() -> None:
    model = network()
    scaler = stand_in("deepspeed.runtime.fp16.loss_scaler", "LossScaler")()
    scaler.cur_scale = 1.0
    shapes = collections.OrderedDict((k, v.shape) for k, v in model.named_parameters())
    states = {
        "module": model.state_dict(), "buffer_names": ["1.running_mean"],
        "optimizer": None, "param_shapes": [shapes], "frozen_param_shapes": None,
        "dp_world_size": 1, "ds_version": "0.14.0", "ds_config": {"zero": 2},
    }  # fmt: skip
    keep("mp_rank_00_model_states.pt", states, states["module"])
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    whole = {
        "optimizer_state_dict": {
            "loss_scaler": scaler, "zero_stage": 2, "partition_count": 1,
            "single_partition_of_fp32_groups": [flat],
            "base_optimizer_state": [{"exp_avg": torch.zeros_like(flat)}],
        },
        "ds_version": "0.14.0",
    }  # fmt: skip
    keep("zero_pp_rank_0_mp_rank_00_optim_states.pt", whole, [])


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    ultralytics()
    lightning()
    fairseq()
    timm()
    mmcv()
    transformers()
    configured()
    deepspeed()
    told = {"torch": torch.__version__.split("+")[0], "files": ROWS}
    write(str(HERE / "kinds" / "frameworks.json"), told)


if __name__ == "__main__":
    main()
