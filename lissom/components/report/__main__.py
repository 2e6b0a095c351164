"""`python -m lissom.components.report`; see lissom/components/specs.py."""

from lissom.components.runner import run_stage

if __name__ == "__main__":
    run_stage("report")
