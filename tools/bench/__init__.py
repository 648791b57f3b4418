"""The benchmark: training speed and memory against stock Trainer + PEFT, TRL and the machine's limit.

    PYTHONPATH=tools python -m bench speed      (make bench)
    PYTHONPATH=tools python -m bench 2b         (make bench-2b)

Read in this order: `shapes` (which models), `rows` (which data), `flops` (what is counted), then what
runs in a fresh process each (`contestant` starts one of `ours`, `stock`, `trl_sft`, `matmul`; `memory`
and `clock` are how it is measured), `turns` (who runs when, medians, ratios), `targets`, `page` (the
document made from the figures), `__main__` (the commands).
"""
