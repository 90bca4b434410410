"""The judge tasks as something to train on."""

if __name__ != "mtrl_judge.rl":
    raise ImportError("install the project (pip install -e .) and import mtrl_judge.rl")
