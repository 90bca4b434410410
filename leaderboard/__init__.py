"""lmms-eval's result files to tables, comparisons, the report and the gate."""

if __name__ != "mtrl_judge.leaderboard":
    raise ImportError("install the project (pip install -e .) and import mtrl_judge.leaderboard")
