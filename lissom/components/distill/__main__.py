"""`python -m lissom.components.distill`; see lissom/components/specs.py."""

from lissom.components.runner import run_stage

if __name__ == "__main__":
    run_stage("distill")
