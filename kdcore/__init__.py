"""What a teacher knows, and how it is passed on: pure functions on tensors (torch only).

The modules follow the survey of Gou, Yu, Maybank and Tao, "Knowledge Distillation: A Survey"
(IJCV 2021, https://arxiv.org/abs/2006.05525). Losses by what is passed on: `response`, `feature`,
`relation`, `information`; by the task: `ranking`, `regression`, `sequence`. `ensemble` makes one
teacher of many, `training` holds pure local training, `fidelity` how well a student follows.
"""
