"""``python -m mtrl_judge`` is the command ``mtrl-judge``."""

from mtrl_judge.cli.main import main

main()
