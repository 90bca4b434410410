"""A loaded model as a judge: checkpoints, prompts, generation and verdict log-probabilities."""

if __name__ != "mtrl_judge.models":
    raise ImportError(
        "this folder is the package mtrl_judge.models; "
        "install the project (pip install -e .) and import it under that name"
    )
