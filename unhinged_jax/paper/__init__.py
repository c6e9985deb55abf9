"""The paper's numerical experiments, run again."""
