"""A judge as a tool: :class:`.judge.Judge` in Python, and the same judge as an HTTP service."""

if __name__ != "mtrl_judge.serving":
    raise ImportError("install the project (pip install -e .) and import mtrl_judge.serving")
