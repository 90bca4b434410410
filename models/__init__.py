"""A loaded model as a judge: checkpoints, prompts, generation and verdict log-probabilities."""

if __name__ != "mtrl_judge.models":
    raise ImportError("install the project (pip install -e .) and import mtrl_judge.models")
