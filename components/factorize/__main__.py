"""`python -m components.factorize`; see components/specs.py."""

from components.runner import run_stage

if __name__ == "__main__":
    run_stage("factorize")
