"""The tables and figures of the paper from one command: plan, runs, results and report."""
