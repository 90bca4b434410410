"""lmms-eval's result files to tables, comparisons, the report and the gate."""

if __name__ != "mtrl_judge.leaderboard":
    raise ImportError(
        "this folder is the package mtrl_judge.leaderboard; "
        "install the project (pip install -e .) and import it under that name"
    )
