"""What a teacher knows, and how it is passed on: pure functions on tensors (torch only).

The losses follow the survey of Gou, Yu, Maybank and Tao, "Knowledge Distillation: A Survey" (IJCV
2021, https://arxiv.org/abs/2006.05525): by what is passed on (`losses.response`, `feature`,
`relation`, `mutual_information`), and by the task (`ranking`, `regression`, `sequence`). `ensemble`
makes one teacher of many, `training` holds pure local training, `schemes` who teaches whom and
when, `metrics` how well a student follows, `settings` what is said of a setting.

`__all__` names the modules, none of which is imported before it is asked for.
"""

__all__ = [
    "devices",
    "ensemble",
    "losses",
    "metrics",
    "outputs",
    "references",
    "registry",
    "rng",
    "schemes",
    "settings",
    "statistics",
    "training",
]
