"""The sample corpus and the tiny model, so that everything runs without a hub."""

if __name__ != "mtrl_judge.demo":
    raise ImportError("install the project (pip install -e .) and import mtrl_judge.demo")
